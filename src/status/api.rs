//! What the JSON says, and whether all is ready. Pure.

use serde::Serialize;

use super::history::Extract;
use crate::snapshot::{InstanceView, Snapshot, Status};

/// The answer of `/api/v1/status`: a snapshot's fields, and the samples before it.
#[derive(Debug, Serialize)]
pub struct Picture {
    #[serde(flatten)]
    snapshot: Snapshot,
    history: Extract,
}

impl Picture {
    /// Nobody asks the supervisor for environments here. Should some come all the same, they go no further.
    pub fn new(mut snapshot: Snapshot, history: Extract) -> Picture {
        for instance in &mut snapshot.instances {
            instance.env = None;
        }
        Picture { snapshot, history }
    }

    /// As JSON text.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// Instances that are wanted and not online. One that was stopped by hand, or never started, is not wanted.
pub fn unready(snapshot: &Snapshot) -> impl Iterator<Item = &InstanceView> {
    snapshot.instances.iter().filter(|instance| !matches!(instance.status, Status::Online | Status::Stopped))
}

/// What `/readyz` says when not all are.
pub fn unready_sentence(snapshot: &Snapshot) -> Option<String> {
    let named = |instance: &InstanceView| {
        format!("{} (instance {}) is {}", instance.app, instance.id, instance.status.as_str())
    };
    let all: Vec<String> = unready(snapshot).map(named).collect();
    (!all.is_empty()).then(|| all.join("\n"))
}

/// The number in `?since=N`; anything else is no number.
pub fn since(query: Option<&str>) -> Option<u64> {
    query?.split('&').find_map(|pair| pair.strip_prefix("since="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{fixture, history::History};

    #[test]
    fn environments_never_leave_even_if_a_snapshot_carries_some() {
        let mut snapshot = fixture::busy();
        snapshot.instances[0].env = Some([("PASSWORD".to_owned(), "hunter2".to_owned())].into());
        let json = Picture::new(snapshot, History::default().extract(None)).to_json().unwrap();
        assert!(!String::from_utf8(json).unwrap().contains("hunter2"));
    }

    #[test]
    fn stopped_instances_do_not_count_and_all_others_must_be_online() {
        let mut snapshot = fixture::busy();
        snapshot.instances.iter_mut().for_each(|instance| instance.status = Status::Online);
        snapshot.instances[0].status = Status::Stopped;
        assert_eq!(unready_sentence(&snapshot), None);
        for status in [Status::Launching, Status::Stopping, Status::WaitingRestart, Status::Errored] {
            snapshot.instances[1].status = status;
            let sentence = unready_sentence(&snapshot).unwrap();
            assert!(sentence.ends_with(status.as_str()), "{sentence}");
        }
    }

    #[test]
    fn since_is_a_number_or_nothing() {
        assert_eq!(since(Some("token=x&since=12")), Some(12));
        for query in [None, Some(""), Some("since="), Some("since=-1"), Some("notsince=1"), Some("since=1x")] {
            assert_eq!(since(query), None);
        }
    }
}
