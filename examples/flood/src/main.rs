//! A worker that floods its siblings: publishes as fast as it can, and checks everything that it is handed.
//!
//! Publishing has a thread of its own, receiving is the main thread's: two workers whose rings are full would otherwise
//! wait for each other. Both write into the worker's account, each its own words.

#![deny(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use flood::account::{Account, Figure};
use flood::control::{Control, Phase};
use flood::message::{self, MIN_SIZE, Stamp};
use flood::verifier::Verifier;
use herdwire_ipc::{Channel, Herd, Inbox, Outgoing, PublishError};

/// How long a thread sleeps before it looks at the phase again.
const NAP: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let size = size()?;
    let folder = PathBuf::from(std::env::var_os("FLOOD_FOLDER").ok_or("FLOOD_FOLDER is not set: who keeps my account?")?);
    let (herd, mut inbox) = herdwire_ipc::connect()?;
    let account = Account::resume(&folder, herd.me().index as usize)?;
    let control = Control::open(&folder)?;
    let channel = herd.subscribe("flood")?;
    herd.ready()?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let result = publish(&herd, &channel, &account, &control, size, &ended);
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

/// `--size BYTES`, 64 by default.
fn size() -> Result<usize, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = match arguments.as_slice() {
        [] => 64,
        [name, value] if name == "--size" => value.parse()?,
        _ => return Err("usage: flood [--size BYTES]".into()),
    };
    if size < MIN_SIZE {
        return Err(format!("a message has at least {MIN_SIZE} bytes").into());
    }
    Ok(size)
}

/// Publishes message after message while the phase says so.
fn publish(
    herd: &Herd,
    channel: &Channel,
    account: &Account,
    control: &Control,
    size: usize,
    ended: &AtomicBool,
) -> Result<(), PublishError> {
    let me = herd.me();
    let mut publisher = herd.publisher();
    let mut buffer = vec![0; size];
    while !ended.load(Relaxed) {
        match control.phase() {
            Phase::Wait => std::thread::sleep(NAP),
            Phase::Run => {
                let sequence = account.intend();
                message::write(&mut buffer, Stamp { publisher: me.index, incarnation: me.incarnation, sequence });
                let mut began = None;
                loop {
                    match publisher.try_publish(channel.id(), Outgoing::bytes(&buffer)) {
                        Ok(_) => break,
                        // The clock is read only where there is something to measure.
                        Err(PublishError::Full) => {
                            let began = *began.get_or_insert_with(Instant::now);
                            let result = publisher.publish(channel.id(), Outgoing::bytes(&buffer));
                            account.raise(Figure::LongestPublish, began.elapsed().as_micros() as u64);
                            match result {
                                Ok(_) => break,
                                Err(PublishError::Full) => account.add(Figure::Refused, 1),
                                Err(error) => return Err(error),
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
                account.commit(sequence);
            }
            Phase::Stop => {
                account.set(Figure::Finished, 1);
                std::thread::sleep(NAP);
            }
        }
    }
    Ok(())
}
