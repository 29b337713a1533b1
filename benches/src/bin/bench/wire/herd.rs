//! A herd made by hand: the parent makes outboxes, bells and directory, and the ends take their places in it.
//!
//! The end at slot 1 publishes on [`PING`], which all others hear, and hears [`PONG`], on which they answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use herdwire_ipc::{ChannelId, Directory, Participant, Place, Slot, SlotState, join, layout, memory};
use serde::{Deserialize, Serialize};

use crate::end::{End, Line};
use crate::wire::Job;

/// From the first end to all others.
pub const PING: ChannelId = ChannelId(0);
/// From the others to the first.
pub const PONG: ChannelId = ChannelId(1);

const HERD: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Joined;

/// Outboxes and bells of the slots from 1 on, and the directory.
pub struct Herd {
    directory: Directory,
    directory_fd: OwnedFd,
    seats: Vec<(OwnedFd, OwnedFd)>,
}

impl Herd {
    /// The herd of so many ends. Nobody has joined yet.
    pub fn make(ends: usize) -> Result<Herd> {
        let directory_fd = memory::create_directory("bench-directory")?;
        let mut directory = Directory::create(directory_fd.as_fd(), HERD, "bench", layout::LAYOUT_VERSIONS.1)?;
        if (directory.intern("ping")?, directory.intern("pong")?) != (PING, PONG) {
            bail!("channels are not numbered in order");
        }
        directory.set_subscribed(PONG, 1, true);
        for slot in 1..=ends as Slot {
            directory.set_subscribed(PING, slot, slot != 1);
        }
        directory.bump();
        let seat = |_| Ok((memory::create_outbox("bench-outbox", layout::RING_DEFAULT)?, memory::create_bell()?));
        let seats = (0..ends).map(seat).collect::<Result<_>>()?;
        Ok(Herd { directory, directory_fd, seats })
    }

    /// Starts one end per job, lets all join, and introduces them to each other.
    pub fn start(mut self, jobs: &[Job], core: impl Fn(usize) -> Option<usize>) -> Result<Vec<End>> {
        let mut ends = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            ends.push(End::start(core(index), job, self.seat_of(index)?)?);
            ends[index].line().say(&(index as Slot + 1), &[])?;
        }
        for (index, end) in ends.iter().enumerate() {
            end.line().hear::<Joined>()?;
            self.accept(index)?;
        }
        for (index, end) in ends.iter().enumerate() {
            let others: Vec<usize> = (0..ends.len()).filter(|other| *other != index).collect();
            let slots: Vec<Slot> = others.iter().map(|other| *other as Slot + 1).collect();
            let seats = others.iter().map(|other| &self.seats[*other]);
            let descriptors: Vec<BorrowedFd<'_>> = seats.flat_map(|seat| [seat.0.as_fd(), seat.1.as_fd()]).collect();
            end.line().say(&slots, &descriptors)?;
        }
        Ok(ends)
    }

    /// Lets participants of this very process join, and introduces them to each other.
    pub fn seat_here(mut self) -> Result<Vec<Participant>> {
        let mut participants = Vec::new();
        for index in 0..self.seats.len() {
            participants.push(take_seat(index as Slot + 1, self.seat_of(index)?)?);
            self.accept(index)?;
        }
        for (index, participant) in participants.iter().enumerate() {
            for other in (0..self.seats.len()).filter(|other| *other != index) {
                let (outbox, bell) = &self.seats[other];
                participant.control.add_peer(other as Slot + 1, 1, outbox.try_clone()?, bell.try_clone()?, false)?;
            }
        }
        Ok(participants)
    }

    fn seat_of(&self, index: usize) -> Result<Vec<OwnedFd>> {
        let (outbox, bell) = &self.seats[index];
        Ok(vec![outbox.try_clone()?, bell.try_clone()?, self.directory_fd.try_clone()?])
    }

    fn accept(&mut self, index: usize) -> Result<()> {
        memory::seal(self.seats[index].0.as_fd())?;
        self.directory.set_slot(index as Slot + 1, SlotState::Running, 1, Some(index as u32));
        self.directory.bump();
        Ok(())
    }
}

/// An end's side of [`Herd::start`]: joins, and gets to know the others.
pub fn sit(descriptors: Vec<OwnedFd>, line: &Line) -> Result<Participant> {
    let (slot, _) = line.hear()?;
    let participant = take_seat(slot, descriptors)?;
    line.say(&Joined, &[])?;
    let (slots, descriptors) = line.hear::<Vec<Slot>>()?;
    let mut descriptors = descriptors.into_iter();
    for slot in slots {
        let (outbox, bell) = descriptors.next().zip(descriptors.next()).context("a peer came without its memory")?;
        participant.control.add_peer(slot, 1, outbox, bell, false)?;
    }
    participant.control.joined();
    Ok(participant)
}

fn take_seat(slot: Slot, descriptors: Vec<OwnedFd>) -> Result<Participant> {
    let [outbox, bell, directory] =
        <[OwnedFd; 3]>::try_from(descriptors).ok().context("a seat is an outbox, a bell and a directory")?;
    let place = Place {
        herd: HERD,
        slot,
        incarnation: 1,
        ring_bytes: layout::RING_DEFAULT,
        base: layout::next_base(0, layout::RING_DEFAULT),
        stall_timeout: Duration::from_secs(20),
        max_message: 1 << 24,
    };
    Ok(join(&place, outbox, bell, directory, None)?)
}
