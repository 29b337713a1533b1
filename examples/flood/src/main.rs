//! A worker that floods its siblings: publishes as fast as it can, and checks everything that it is handed.
//!
//! Publishing has a thread of its own, receiving is the main thread's: two workers whose rings are full would otherwise
//! wait for each other. Both write into the worker's account, each its own words.

#![deny(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use flood::account::{Account, Figure};
use flood::control::{Control, Phase};
use flood::message::{self, MIN_SIZE, Stamp};
use flood::verifier::Verifier;
use herdwire_ipc::{Channel, Herd, Inbox, Neighbour, Outgoing, PublishError, Publisher, SlotState};

/// How long a thread sleeps before it looks at the phase again.
const NAP: Duration = Duration::from_millis(20);
/// Messages between two looks at how far the siblings are.
const LOOK: u32 = 64;
/// Messages between two breaths of a publisher that is ahead. It slows down and never stops: nobody is to wait for a
/// sibling that has just come back.
const SLOW: u32 = 8;
const BREATH: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    flood::end(work())
}

fn work() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let size = arguments.size;
    let folder =
        PathBuf::from(std::env::var_os("FLOOD_FOLDER").ok_or("FLOOD_FOLDER is not set: who keeps my account?")?);
    let (herd, mut inbox) = herdwire_ipc::connect()?;
    let account = Account::resume(&folder, herd.me().index as usize)?;
    let control = Control::open(&folder)?;
    let channel = herd.subscribe("flood")?;
    herd.ready()?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let result = publish(&herd, &channel, &account, &control, &arguments, &ended);
            if let Err(error) = &result {
                eprintln!("the publisher has ended: {error}");
            }
            result
        });
        receive(&herd, &mut inbox, &account, &control, size);
        ended.store(true, Relaxed);
        publisher.join().expect("the publisher does not panic")
    })?;
    Ok(())
}

/// What the command line says.
struct Arguments {
    /// Bytes of a message.
    size: usize,
    /// Bytes that may be unread by a sibling that lives, before the publisher slows down: what a ring holds beyond them
    /// is for siblings that restart, for whom nobody waits. Without it the rings alone decide.
    window: u64,
}

impl Arguments {
    fn parse() -> Result<Arguments, Box<dyn Error>> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let mut arguments = Arguments { size: 64, window: u64::MAX };
        for pair in words.chunks(2) {
            match pair {
                [name, value] if name == "--size" => arguments.size = value.parse()?,
                [name, value] if name == "--window" => arguments.window = value.parse()?,
                _ => return Err("usage: flood [--size BYTES] [--window BYTES]".into()),
            }
        }
        if arguments.size < MIN_SIZE {
            return Err(format!("a message has at least {MIN_SIZE} bytes").into());
        }
        Ok(arguments)
    }
}

/// Publishes message after message while the phase says so.
fn publish(
    herd: &Herd,
    channel: &Channel,
    account: &Account,
    control: &Control,
    arguments: &Arguments,
    ended: &AtomicBool,
) -> Result<(), PublishError> {
    let me = herd.me();
    let mut publisher = herd.publisher();
    let mut buffer = vec![0; arguments.size];
    let mut until_look = 0;
    while !ended.load(Relaxed) {
        match control.phase() {
            Phase::Wait => std::thread::sleep(NAP),
            Phase::Run => {
                let sequence = account.intend();
                message::write(&mut buffer, Stamp { publisher: me.index, incarnation: me.incarnation, sequence });
                publish_one(&mut publisher, channel, account, &buffer)?;
                account.commit(sequence);
                if until_look == 0 {
                    let ahead = arguments.window != u64::MAX && is_ahead(herd, publisher.head(), arguments.window);
                    until_look = if ahead { SLOW } else { LOOK };
                    if ahead {
                        std::thread::sleep(BREATH);
                    }
                }
                until_look -= 1;
            }
            Phase::Stop => {
                account.set(Figure::Finished, 1);
                std::thread::sleep(NAP);
            }
        }
    }
    Ok(())
}

/// Whether a sibling that lives has more unread than it should.
fn is_ahead(herd: &Herd, head: u64, window: u64) -> bool {
    let unread =
        |reader: &Neighbour| herd.control().cursor(reader.slot, herd.me().slot).map(|at| head.saturating_sub(at));
    let living = herd.peers().into_iter().filter(|peer| peer.state == SlotState::Running);
    living.filter_map(|peer| unread(&peer)).any(|unread| unread > window)
}

/// Publishes one message, however long there is no room for it.
fn publish_one(
    publisher: &mut Publisher,
    channel: &Channel,
    account: &Account,
    payload: &[u8],
) -> Result<(), PublishError> {
    loop {
        // The clock is read only where there is something to measure: the relief is called when it waits.
        let mut began = None;
        let result = publisher.publish_with(channel.id(), Outgoing::bytes(payload), || {
            began.get_or_insert_with(Instant::now);
        });
        if let Some(began) = began {
            account.raise(Figure::LongestPublish, began.elapsed().as_micros() as u64);
        }
        match result {
            // Nothing of it was written. Who is in the way is stalled by now, and not waited for again.
            Err(PublishError::Full) => account.add(Figure::Refused, 1),
            result => return result.map(drop),
        }
    }
}

/// Checks what arrives, until the supervisor asks this worker to finish.
fn receive(herd: &Herd, inbox: &mut Inbox, account: &Account, control: &Control, size: usize) {
    let mut verifier = Verifier::new(account, size, herd.me().index as usize);
    // When something arrived last, while the others were to publish.
    let mut last = None;
    while !herd.is_shutting_down() {
        let turn = inbox.turn(|delivery| verifier.take(delivery.payload));
        let running = control.phase() == Phase::Run;
        let now = Instant::now();
        if let (true, Some(before)) = (running, last) {
            account.raise(Figure::LongestPause, now.duration_since(before).as_micros() as u64);
        }
        match (running, last) {
            (false, _) => last = None,
            (true, None) => last = Some(now),
            (true, Some(_)) if turn.records > 0 => last = Some(now),
            (true, Some(_)) => {}
        }
        if turn.records == 0 && !turn.more {
            let lagged = inbox.lost().iter().map(|loss| loss.records).sum();
            account.add(Figure::Lagged, lagged);
            inbox.wait(NAP);
        }
    }
}
