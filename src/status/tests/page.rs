//! The page in a real browser.
//!
//! These need a Chromium in PATH and are skipped, aloud, where there is none. `a_page_to_look_at` is for people:
//! `HERDWIRE_LOOK_SECONDS=600 cargo test --lib a_page_to_look_at -- --ignored --nocapture`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::Served;
use crate::snapshot::Snapshot;
use crate::status::server::Limits;
use crate::status::{CAPACITY, fixture};

/// The same snapshot `at` seconds later: figures move as real ones do.
fn moved(mut all: Snapshot, at: u64) -> Snapshot {
    let wave = |of: u64, period: f64| 1.0 + 0.35 * (at as f64 / period + of as f64).sin();
    let noise =
        |of: u64| (at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(of * 1_442_695) >> 33) as f64 % 100.0;
    all.supervisor.uptime_ms += at * 1000;
    for instance in &mut all.instances {
        let of = u64::from(instance.id);
        instance.uptime_ms += at * 1000;
        instance.cpu_percent *= (wave(of, 9.0) + noise(of) / 400.0) as f32;
        instance.memory_bytes = (instance.memory_bytes as f64 * (1.0 + 0.004 * (at % 45) as f64)) as u64;
    }
    for (of, channel) in all.herds.iter_mut().flat_map(|herd| &mut herd.channels).enumerate() {
        channel.rate *= wave(of as u64, 13.0) + noise(of as u64 + 50) / 300.0;
        channel.published += (channel.rate * at as f64) as u64;
    }
    all
}

/// A server whose figures have moved for two minutes.
fn served(snapshot: &Snapshot) -> Served {
    let served = Served::start(None, snapshot.clone());
    for at in 0..CAPACITY as u64 {
        served.history.record(at * 1000, &moved(snapshot.clone(), at));
    }
    served
}

#[tokio::test]
#[ignore = "for people: serves the page for HERDWIRE_LOOK_SECONDS"]
async fn a_page_to_look_at() {
    let seconds = std::env::var("HERDWIRE_LOOK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let pages = [fixture::busy(), fixture::empty(), fixture::hostile()];
    let all: Vec<Served> = pages.iter().map(served).collect();
    all.iter().for_each(|one| println!("http://{}/", one.address));
    let (end, mut second) = (Instant::now() + Duration::from_secs(seconds), interval(Duration::from_secs(1)));
    for at in CAPACITY as u64.. {
        if second.tick().await >= end {
            break;
        }
        for (page, one) in pages.iter().zip(&all) {
            let now = moved(page.clone(), at);
            one.history.record(at * 1000, &now);
            one.shown.send_replace(now);
        }
    }
    for one in all {
        one.stop().await;
    }
}

/// A browser and its folder; both are gone when this is.
struct Browser {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Fails when it has ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the page has become after a few seconds; `None` where there is no browser.
fn drawn(url: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--virtual-time-budget=8000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", folder.path().display())).arg(url);
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(process) = started else {
        println!("skipped: there is no chromium in PATH");
        return None;
    };
    let mut browser = Browser { process, _folder: folder };
    let mut document = String::new();
    browser.process.stdout.take()?.read_to_string(&mut document).unwrap();
    Some(document)
}

async fn drawn_by(served: &Served, query: &str) -> Option<String> {
    let url = format!("http://{}/{query}", served.address);
    tokio::task::spawn_blocking(move || drawn(&url)).await.unwrap()
}

#[tokio::test]
async fn the_page_draws_every_app_and_channel_and_turns_no_name_into_markup() {
    let served = served(&fixture::hostile());
    let Some(document) = drawn_by(&served, "").await else { return };
    served.stop().await;
    assert!(document.contains("data-state=\"live\""), "{document}");
    for text in ["thumbnailer", "prices 1", "ticks", "waiting restart", "312", "&lt;img src=x onerror="] {
        assert!(document.contains(text), "no {text} in {document}");
    }
    assert!(!document.contains("<img src=\"x\"") && !document.contains("<title>owned"), "{document}");
}

#[tokio::test]
async fn the_page_asks_for_the_token_and_draws_with_it() {
    let served = Served::start(Some("open sesame"), fixture::busy());
    let Some(closed) = drawn_by(&served, "").await else { return };
    let opened = drawn_by(&served, "?token=open%20sesame").await.unwrap();
    served.stop().await;
    assert!(closed.contains("data-state=\"token\"") && !closed.contains("thumbnailer"), "{closed}");
    assert!(opened.contains("data-state=\"live\"") && opened.contains("thumbnailer"), "{opened}");
}

#[tokio::test]
async fn the_page_says_when_the_supervisor_does_not_answer_and_recovers() {
    let gone = Served::start_within(Limits::USUAL, u32::MAX, None, fixture::busy());
    let Some(lost) = drawn_by(&gone, "").await else { return };
    gone.stop().await;
    assert!(lost.contains("data-state=\"lost\"") && lost.contains("does not answer. Trying again"), "{lost}");
    let back = Served::start_within(Limits::USUAL, 2, None, fixture::busy());
    let live = drawn_by(&back, "").await.unwrap();
    back.stop().await;
    assert!(live.contains("data-state=\"live\"") && live.contains("thumbnailer"), "{live}");
}

#[tokio::test]
async fn a_curve_has_every_sample_once_however_often_the_page_looks() {
    let (served, snapshot) = (Served::start(None, fixture::busy()), fixture::busy());
    (0..3).for_each(|at| served.history.record(at, &snapshot));
    let Some(document) = drawn_by(&served, "").await else { return };
    served.stop().await;
    let curve = document.split("class=\"spark cpu\"").nth(1).unwrap();
    let line = curve.split("class=\"line\"").nth(1).unwrap().split("d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(line.matches(',').count(), 3, "{line}");
}
