//! Who is attached, and which files they write to.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use super::stream::Stream;
use super::{StreamKey, lock};
use crate::config::spec::Rotation;
use crate::logs::compress::Asking;
use crate::logs::rendered::Rendered;
use crate::logs::target::Target;
use crate::logs::written::Written;

/// Streams that have ended and are remembered.
const ENDED: usize = 64;

/// Streams by a token that is never used again, and files by their paths.
#[derive(Debug, Default)]
pub struct Table {
    last: u64,
    pub streams: HashMap<u64, Arc<Mutex<Stream>>>,
    pub tokens: HashMap<StreamKey, u64>,
    pub targets: HashMap<PathBuf, Weak<Mutex<Target>>>,
    /// So many targets are looked through for those that nobody uses any more.
    tidy_at: usize,
    pub rendered: HashMap<PathBuf, Weak<Mutex<Rendered>>>,
    /// Where the lines of those are who have ended last.
    ended: VecDeque<(StreamKey, PathBuf, Written)>,
}

impl Table {
    /// Adds a stream, and says by which token it is known.
    pub fn add(&mut self, key: StreamKey, stream: impl FnOnce(u64) -> Stream) -> (u64, Arc<Mutex<Stream>>) {
        self.last += 1;
        let entry = Arc::new(Mutex::new(stream(self.last)));
        self.tokens.insert(key, self.last);
        self.streams.insert(self.last, Arc::clone(&entry));
        (self.last, entry)
    }

    /// One target for a path, whoever writes to it.
    pub fn target(&mut self, path: &Path, rotation: Rotation, compressor: &Asking) -> Arc<Mutex<Target>> {
        if let Some(target) = self.targets.get(path).and_then(Weak::upgrade) {
            lock(&target).set_rotation(rotation);
            return target;
        }
        if self.targets.len() >= self.tidy_at {
            self.targets.retain(|_, target| target.strong_count() > 0);
            // Each look pays for as many that came since.
            self.tidy_at = (self.targets.len() * 2).max(64);
        }
        let target = Arc::new(Mutex::new(Target::new(path.to_owned(), rotation, compressor.clone())));
        self.targets.insert(path.to_owned(), Arc::downgrade(&target));
        target
    }

    /// Remembers for a while where a stream's lines are.
    pub fn remember(&mut self, stream: StreamKey, path: PathBuf, written: Written) {
        if self.ended.len() == ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((stream, path, written));
    }

    /// Where the lines of a stream are that has ended not long ago.
    pub fn remembered(&self, stream: StreamKey) -> Option<(PathBuf, Written)> {
        let mut newest = self.ended.iter().rev();
        newest.find(|(key, ..)| *key == stream).map(|(_, path, written)| (path.clone(), written.clone()))
    }

    /// A stream by its key.
    pub fn find(&self, key: StreamKey) -> Option<Arc<Mutex<Stream>>> {
        self.streams.get(self.tokens.get(&key)?).cloned()
    }

    /// Removes a stream.
    pub fn remove(&mut self, key: StreamKey) -> Option<Arc<Mutex<Stream>>> {
        let token = self.tokens.remove(&key)?;
        self.streams.remove(&token)
    }

    /// Removes a stream, unless another has its key by now.
    pub fn forget(&mut self, token: u64, key: StreamKey) {
        self.streams.remove(&token);
        if self.tokens.get(&key) == Some(&token) {
            self.tokens.remove(&key);
        }
    }
}
