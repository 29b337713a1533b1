//! How processes ended: what the supervisor says, in its log and in `jlist`, held against what they wrote down before.

use std::collections::BTreeMap;

use flood::account::{Account, Figure};
use serde_json::{Value, json};

use crate::supervisor::index;

/// Exits, and those that somebody tells otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    pub exits: u64,
    pub wrong: u64,
}

/// (instance, incarnation) to what is said of its end. Two different words for one end are both kept.
pub type Told = BTreeMap<(u64, u32), Vec<String>>;

/// Compares the whole history with the log, and the last exit of each with `jlist`.
pub fn compare(log: &str, instances: &[Value], accounts: &[Account]) -> Comparison {
    let mut told = told(log);
    let mut comparison = Comparison::default();
    for instance in instances {
        let (id, account) = (instance["pm_id"].as_u64().unwrap_or(u64::MAX), &accounts[index(instance)]);
        let exits = account.exits();
        comparison.exits += account.figure(Figure::ExitCount);
        // Those that found no room in the account cannot be checked, which is wrong too.
        comparison.wrong += account.figure(Figure::ExitCount) - exits.len() as u64;
        for exit in &exits {
            let expected = vec![format!("exit code {}", exit.code)];
            let words = told.remove(&(id, exit.incarnation));
            if words.as_ref() != Some(&expected) {
                eprintln!("instance {id}, incarnation {}: {expected:?} is told as {words:?}", exit.incarnation);
                comparison.wrong += 1;
            }
        }
        let last = exits.last().map_or(Value::Null, |exit| json!({ "Code": exit.code }));
        let shown = &instance["herdwire"]["last_exit"];
        if *shown != last {
            eprintln!("instance {id}: its last exit is {last} and shown as {shown}");
            comparison.wrong += 1;
        }
    }
    // Ends that nobody has chosen.
    for ((id, incarnation), words) in &told {
        eprintln!("instance {id}, incarnation {incarnation}: told as {words:?}, but it has not exited");
    }
    comparison.wrong += told.len() as u64;
    comparison
}

/// `NAME:ID (incarnation N) ended: WORDS`, wherever it stands in a line. A supervisor that died over an exit leaves it to
/// its successor, so the same may be said twice; who never ran did not end.
pub fn told(log: &str) -> Told {
    let mut told = Told::new();
    for line in log.lines() {
        let Some((before, words)) = line.split_once(") ended: ") else { continue };
        let Some((name, incarnation)) = before.rsplit_once(" (incarnation ") else { continue };
        let id = name.rsplit_once(':').and_then(|(_, id)| id.parse().ok());
        let (Some(id), Ok(incarnation)) = (id, incarnation.parse()) else { continue };
        if words == "never started" {
            continue;
        }
        let said = told.entry((id, incarnation)).or_default();
        if !said.iter().any(|known| known == words) {
            said.push(words.to_owned());
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use flood::account::Exit;

    fn instance(last: Value) -> Value {
        json!({"pm_id": 3, "pm2_env": {"NODE_APP_INSTANCE": 0}, "herdwire": {"last_exit": last}})
    }

    fn compare_with(log: &str, last: Value) -> Comparison {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        account.exiting(Exit { incarnation: 1, code: 7 });
        account.exiting(Exit { incarnation: 3, code: 0 });
        compare(log, &[instance(last)], &[account])
    }

    const FIRST: &str = "2026-01-01 INFO chatter:3 (incarnation 1) ended: exit code 7\n";
    const BETWEEN: &str = "2026-01-01 INFO chatter:3 (incarnation 2) ended: never started\n";
    const SECOND: &str = "2026-01-01 INFO chatter:3 (incarnation 3) ended: exit code 0\n";

    #[test]
    fn exits_that_are_told_as_they_were_are_right_even_if_told_twice() {
        let log = [FIRST, FIRST, BETWEEN, SECOND].concat();
        assert_eq!(compare_with(&log, json!({"Code": 0})), Comparison { exits: 2, wrong: 0 });
    }

    #[test]
    fn an_exit_that_is_missing_or_told_otherwise_is_wrong() {
        let other = SECOND.replace("exit code 0", "signal 9");
        assert_eq!(compare_with(FIRST, json!({"Code": 0})).wrong, 1);
        assert_eq!(compare_with(&[FIRST, &other].concat(), json!({"Code": 0})).wrong, 1);
        assert_eq!(compare_with(&[FIRST, SECOND, &other].concat(), json!({"Code": 0})).wrong, 1);
    }

    #[test]
    fn an_end_that_nobody_chose_is_wrong_and_so_is_another_last_exit() {
        let more = SECOND.replace("incarnation 3", "incarnation 4");
        assert_eq!(compare_with(&[FIRST, SECOND, &more].concat(), json!({"Code": 0})).wrong, 1);
        assert_eq!(compare_with(&[FIRST, SECOND].concat(), json!({"Code": 7})).wrong, 1);
    }
}
