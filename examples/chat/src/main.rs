//! One worker of a chat: what a browser says comes to one worker, and what that worker publishes reaches every
//! browser. Each worker also tells its siblings what it did, so that any of them knows how many lines there were.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What a browser sends.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromBrowser {
    Say { name: String, text: String },
}

/// What every browser gets.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToBrowsers<'a> {
    Said { name: &'a str, text: &'a str, worker: Worker, at: u64 },
    Note { text: &'a str },
}

#[derive(Serialize, Clone, Copy)]
struct Worker {
    index: u32,
    pid: u32,
}

/// What workers tell one another.
#[derive(Serialize, Deserialize)]
struct Count {
    lines: u64,
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let (herd, mut inbox) = herdwire_ipc::connect()?;
    let chat = herd.subscribe("chat")?;
    let counts = herd.subscribe("counts")?;
    herd.ready()?;
    let worker = Worker { index: herd.me().index, pid: std::process::id() };
    println!("worker {} serves as process {}", worker.index, worker.pid);
    let (mut own, mut siblings) = (0, 0);
    while let Some(message) = inbox.next()? {
        if message.channel() == counts.name() {
            siblings += message.json::<Count>()?.lines;
            println!("{own} lines here, {siblings} at the siblings");
            continue;
        }
        let Some(session) = message.session() else {
            // A sibling's word to the browsers, which is not for us.
            continue;
        };
        match message.json() {
            Ok(FromBrowser::Say { name, text }) => {
                own += 1;
                herd.publish_json(&chat, &ToBrowsers::Said { name: &name, text: &text, worker, at: now_ms() })?;
                herd.publish_json(&counts, &Count { lines: 1 })?;
            }
            Err(error) => {
                let text = format!("that was not understood: {error}");
                herd.send_to_session(&chat, session, &serde_json::to_vec(&ToBrowsers::Note { text: &text })?)?;
            }
        }
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
