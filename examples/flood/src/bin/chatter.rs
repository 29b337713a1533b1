//! A worker that gives its supervisor something to lose: it logs numbered lines, exchanges numbered messages with its
//! siblings, and exits now and then with a code that it writes into its account first.
//!
//! It exits only between two turns, with nothing in hand, so nothing of it may be missing anywhere.

#![deny(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flood::account::{Account, Exit, Figure};
use flood::control::{Control, Phase};
use flood::message::{self, Stamp};
use flood::verifier::Verifier;
use herdwire_ipc::{Channel, Herd, Inbox, Outgoing, PublishError};

/// Bytes of a message.
const SIZE: usize = 64;
/// Between two messages and lines.
const STEP: Duration = Duration::from_millis(2);
/// How long it lives, at least; at most twice that.
const LIFE: Duration = Duration::from_millis(1500);
/// Exit codes are below it.
const CODES: u64 = 100;

fn main() -> ExitCode {
    flood::end(work())
}

fn work() -> Result<(), Box<dyn Error>> {
    let folder =
        PathBuf::from(std::env::var_os("FLOOD_FOLDER").ok_or("FLOOD_FOLDER is not set: who keeps my account?")?);
    let (herd, inbox) = herdwire_ipc::connect()?;
    let account = Account::resume(&folder, herd.me().index as usize)?;
    let control = Control::open(&folder)?;
    let channel = herd.subscribe("chatter")?;
    herd.ready()?;
    Chatter { herd, inbox, channel, account: &account, control }.run()
}

struct Chatter<'a> {
    herd: Herd,
    inbox: Inbox,
    channel: Channel,
    account: &'a Account,
    control: Control,
}

impl Chatter<'_> {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        let account = self.account;
        let mut verifier = Verifier::new(account, SIZE, self.herd.me().index as usize);
        let chance = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
        let end = Instant::now() + LIFE + LIFE * (chance % 1000) / 1000;
        let mut next = Instant::now();
        while !self.herd.is_shutting_down() {
            while self.inbox.turn(|delivery| verifier.take(delivery.payload)).more {}
            account.add(Figure::Lagged, self.inbox.lost().iter().map(|loss| loss.records).sum());
            let (phase, now) = (self.control.phase(), Instant::now());
            match phase {
                Phase::Run if now >= end => self.exit(u64::from(chance) / 1000 % CODES),
                Phase::Run if now >= next => {
                    next = now + STEP;
                    self.publish()?;
                    self.log()?;
                }
                Phase::Wait | Phase::Run => {}
                Phase::Stop => account.set(Figure::Finished, 1),
            }
            self.inbox.wait(next.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), Box<dyn Error>> {
        let me = self.herd.me();
        let sequence = self.account.intend();
        let mut buffer = [0; SIZE];
        message::write(&mut buffer, Stamp { publisher: me.index, incarnation: me.incarnation, sequence });
        // Not the herd's own publish, which takes messages in hand while it waits.
        while let Err(error) = self.herd.publisher().publish(self.channel.id(), Outgoing::bytes(&buffer)) {
            match error {
                PublishError::Full => self.account.add(Figure::Refused, 1),
                error => return Err(error.into()),
            }
        }
        self.account.commit(sequence);
        Ok(())
    }

    /// One line, one write: the number of the line, and what shows that it is whole.
    fn log(&self) -> std::io::Result<()> {
        let number = self.account.figure(Figure::Lines) + 1;
        self.account.set(Figure::Lines, number);
        let incarnation = self.herd.me().incarnation;
        let line = format!("line {number} of incarnation {incarnation} ends here\n");
        std::io::stdout().lock().write_all(line.as_bytes())
    }

    fn exit(&self, code: u64) -> ! {
        let code = code as u8;
        self.account.exiting(Exit { incarnation: self.herd.me().incarnation, code });
        // Nothing is left to be dropped: the wire is to cope with those who just go.
        std::process::exit(code.into())
    }
}
