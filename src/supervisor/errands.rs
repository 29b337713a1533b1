//! What is done to instances at once, and changes nothing of what is wanted: counters set back, a signal sent.

use super::control::{Failure, Response, Selector};
use super::core::Core;
use super::registry::Process;

impl Core {
    /// `reset`: restarts are counted from 0 again, and failures are forgotten.
    pub(super) async fn reset(&mut self, select: &Selector) -> Result<Response, Failure> {
        for id in self.find(select)? {
            let Some(entry) = self.registry.instances.get_mut(&id) else { continue };
            entry.life.reset();
            self.commit(id);
            self.tell_of(id, "instance.reset", "its counters were set back by hand");
        }
        Ok(Response::Done(Box::new(self.snapshot(false).await)))
    }

    /// `sendSignal`: to the process alone, as `kill(1)` would, and nothing follows from it but what the process does.
    pub(super) async fn send_signal(&mut self, select: &Selector, signal: i32) -> Result<Response, Failure> {
        let ids = self.find(select)?;
        let mut sent = 0;
        for id in &ids {
            let entry = &self.registry.instances[id];
            // One that was not let go yet is no program of the user's.
            let Process::Exists { pidfd, released: true, .. } = &entry.process else { continue };
            match pidfd.signal(signal) {
                Ok(()) => sent += 1,
                // It has ended, and the news is on its way.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => {
                    let what = format!("signal {signal} cannot be sent to {}", self.registry.label(entry));
                    return Err(Failure::new(what).cause(error));
                }
            }
        }
        match (sent, ids.as_slice()) {
            (0, [only]) => {
                let label = self.registry.label(&self.registry.instances[only]);
                Err(Failure::new(format!("{label} is not running, so nobody was signalled")))
            }
            (0, _) => Err(Failure::new("none of them is running, so nobody was signalled")),
            _ => Ok(Response::Done(Box::new(self.snapshot(false).await))),
        }
    }
}
