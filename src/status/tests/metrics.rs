//! What a scrape gets, read by a parser of its own.

use std::collections::HashSet;

use super::Served;
use crate::status::fixture;

/// Name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// The grammar of OpenMetrics, as far as it is used here.
struct Exposition {
    samples: Vec<Sample>,
}

impl Exposition {
    fn parse(text: &str) -> Exposition {
        let mut lines: Vec<&str> = text.split('\n').collect();
        assert_eq!((lines.pop(), lines.pop()), (Some(""), Some("# EOF")));
        let (mut described, mut current, mut samples) = (HashSet::new(), String::new(), Vec::new());
        for line in lines {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                assert!(["HELP", "TYPE", "UNIT"].contains(&kind) && !rest.is_empty(), "{line}");
                assert!(described.insert(format!("{kind} {name}")), "described twice: {line}");
                current = name.to_owned();
                continue;
            }
            let sample = Exposition::sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
            let bare = ["_total", "_info"].iter().find_map(|suffix| sample.0.strip_suffix(suffix)).unwrap_or(&sample.0);
            assert!(bare == current || sample.0 == current, "{line} does not belong to {current}");
            samples.push(sample);
        }
        Exposition { samples }
    }

    fn sample(line: &str) -> Option<Sample> {
        let name_end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(name_end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (key, behind) = rest.split_once("=\"")?;
                let (value, behind) = unescaped(behind)?;
                labels.push((key.to_owned(), value));
                rest = behind.strip_prefix(',').unwrap_or(behind);
            }
            rest = &rest[1..];
        }
        let word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let well_formed = word(name) && name.starts_with("herdwire_") && labels.iter().all(|(key, _)| word(key));
        well_formed.then_some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
    }

    fn value(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let has = |labels: &[(String, String)]| {
            wanted.iter().all(|(k, v)| labels.iter().any(|(key, value)| key == k && value == v))
        };
        let mut found = self.samples.iter().filter(|(of, labels, _)| of == name && has(labels));
        let value = found.next().unwrap_or_else(|| panic!("no {name} {wanted:?}")).2;
        assert!(found.next().is_none(), "more than one {name} {wanted:?}");
        value
    }
}

/// A label's value up to its closing quote, and what is behind.
fn unescaped(text: &str) -> Option<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
    None
}

#[tokio::test]
async fn the_metrics_are_well_formed_and_say_what_the_snapshot_says() {
    let served = Served::start(None, fixture::busy());
    let metrics = Exposition::parse(&served.get("/metrics").await.body);
    assert_eq!(metrics.value("herdwire_instance_up", &[("app", "prices"), ("index", "0")]), 1.0);
    assert_eq!(metrics.value("herdwire_instance_up", &[("app", "thumbnailer")]), 0.0);
    assert_eq!(metrics.value("herdwire_instance_restarts_total", &[("id", "7")]), 16.0);
    assert_eq!(metrics.value("herdwire_instance_cpu_ratio", &[("id", "1")]), 0.13);
    assert_eq!(metrics.value("herdwire_instance_memory_bytes", &[("id", "0")]), f64::from(48 << 20));
    assert_eq!(metrics.value("herdwire_instances", &[("status", "waiting restart")]), 1.0);
    assert_eq!(metrics.value("herdwire_channel_lost_total", &[("herd", "market"), ("channel", "ticks")]), 1204.0);
    assert_eq!(metrics.value("herdwire_bridge_up", &[]), 1.0);
    assert_eq!(metrics.value("herdwire_front_sessions", &[]), 312.0);
    assert_eq!(metrics.value("herdwire_store_descriptors", &[]), 61.0);
    assert_eq!(metrics.value("herdwire_supervisor_info", &[("version", "0.1.0")]), 1.0);
    served.stop().await;
}

#[tokio::test]
async fn hostile_names_stay_inside_their_labels() {
    let served = Served::start(None, fixture::hostile());
    let metrics = Exposition::parse(&served.get("/metrics").await.body);
    let labels = [("herd", fixture::HOSTILE), ("channel", fixture::HOSTILE)];
    assert_eq!(metrics.value("herdwire_channel_published_total", &labels), 182_331.0);
    assert!(metrics.samples.iter().all(|(name, ..)| !name.contains("owned")));
    served.stop().await;
}

#[tokio::test]
async fn a_supervisor_without_anything_has_well_formed_metrics_too() {
    let served = Served::start(None, fixture::empty());
    Exposition::parse(&served.get("/metrics").await.body);
    served.stop().await;
}
