//! What the committed records hold, and their bytes.
//!
//! Fields are little-endian, in a fixed order, frozen: a later release appends some and reads the missing ones of an
//! older record as zero; an older one ignores what follows those it knows.

/// Bytes of an instance's lifecycle, which only `lifecycle` reads.
pub const LIFECYCLE_BYTES: usize = 128;

/// Bytes of an app's deployment, which only `deployment` reads.
pub const DEPLOYMENT_BYTES: usize = 192;

/// The most bytes that a record's fields take.
pub const BODY_BYTES: usize = 240;

/// What belongs to the supervisor as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Globals {
    /// The last exit of the keeper that has been acted on.
    pub exit_sequence: u64,
    /// The next number of each kind. None is ever given twice.
    pub next_app: u32,
    pub next_instance: u32,
    /// Revision of the settings in force; 0 before there are any.
    pub settings_revision: u32,
    /// Everything is to end: a successor goes on with that instead of running the herd.
    pub ending: bool,
}

/// One app. Its spec is a sealed memfd in the store, found by `id` and `revision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppRecord {
    pub id: u32,
    pub revision: u32,
    /// The last revision that was given out; at least `revision`.
    pub newest: u32,
    /// Where its last deployment stands, opaque here; zeros for none.
    pub deployment: [u8; DEPLOYMENT_BYTES],
}

impl AppRecord {
    /// An app that has had no other release since.
    pub fn new(id: u32, revision: u32) -> AppRecord {
        AppRecord { id, revision, newest: revision, ..AppRecord::default() }
    }
}

impl Default for AppRecord {
    fn default() -> AppRecord {
        AppRecord { id: 0, revision: 0, newest: 0, deployment: [0; DEPLOYMENT_BYTES] }
    }
}

/// One instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceRecord {
    pub id: u32,
    pub app: u32,
    pub index: u32,
    pub incarnation: u32,
    /// The state of its lifecycle, opaque here.
    pub lifecycle: [u8; LIFECYCLE_BYTES],
    /// 0 when nothing runs.
    pub pid: u32,
    /// Inode of its pidfd: with `pid`, an identity; 0 where the kernel has none.
    pub pidfd_inode: u64,
    /// Wall-clock times, in ms since 1970; 0 for never.
    pub started_at_ms: u64,
    pub created_at_ms: u64,
    /// Revision of the spec that it runs, which may be behind its app's.
    pub revision: u32,
    /// It is to be removed once its process is gone.
    pub doomed: bool,
    /// The number that users know it by: `id`, or that of the instance whose place it takes in a reload.
    pub number: u32,
    /// What it is to its number: 0 has it, 1 stands beside the one that has it, 2 had it.
    pub role: u8,
    /// Whether it writes into log files without a number, as an app's only instance.
    pub alone: bool,
    /// The process that its life is, where that is not the one that was started; 0 where it is.
    pub main_pid: u32,
    /// Inode of that one's pidfd.
    pub main_inode: u64,
    /// Its process has been told to leave, as far as its life says so.
    pub told: bool,
}

impl Default for InstanceRecord {
    fn default() -> InstanceRecord {
        InstanceRecord {
            id: 0,
            app: 0,
            index: 0,
            incarnation: 0,
            lifecycle: [0; LIFECYCLE_BYTES],
            pid: 0,
            pidfd_inode: 0,
            started_at_ms: 0,
            created_at_ms: 0,
            revision: 0,
            doomed: false,
            number: 0,
            role: 0,
            alone: false,
            main_pid: 0,
            main_inode: 0,
            told: false,
        }
    }
}

/// What is written into a record and read from it.
pub(super) trait Fields: Sized {
    fn write(&self, body: &mut Body);
    fn read(body: &mut Reading<'_>) -> Self;
}

impl Fields for Globals {
    fn write(&self, body: &mut Body) {
        body.put(self.exit_sequence.to_le_bytes());
        for number in [self.next_app, self.next_instance, self.settings_revision] {
            body.put(number.to_le_bytes());
        }
        body.put([u8::from(self.ending)]);
    }

    fn read(body: &mut Reading<'_>) -> Globals {
        Globals {
            exit_sequence: body.u64(),
            next_app: body.u32(),
            next_instance: body.u32(),
            settings_revision: body.u32(),
            ending: body.take() != [0],
        }
    }
}

impl Fields for AppRecord {
    fn write(&self, body: &mut Body) {
        for number in [self.id, self.revision, self.newest] {
            body.put(number.to_le_bytes());
        }
        body.put(self.deployment);
    }

    fn read(body: &mut Reading<'_>) -> AppRecord {
        AppRecord { id: body.u32(), revision: body.u32(), newest: body.u32(), deployment: body.take() }
    }
}

impl Fields for InstanceRecord {
    fn write(&self, body: &mut Body) {
        for number in [self.id, self.app, self.index, self.incarnation] {
            body.put(number.to_le_bytes());
        }
        body.put(self.lifecycle);
        body.put(self.pid.to_le_bytes());
        for number in [self.pidfd_inode, self.started_at_ms, self.created_at_ms] {
            body.put(number.to_le_bytes());
        }
        body.put(self.revision.to_le_bytes());
        body.put([u8::from(self.doomed)]);
        body.put(self.number.to_le_bytes());
        body.put([self.role, u8::from(self.alone)]);
        body.put(self.main_pid.to_le_bytes());
        body.put(self.main_inode.to_le_bytes());
        body.put([u8::from(self.told)]);
    }

    fn read(body: &mut Reading<'_>) -> InstanceRecord {
        InstanceRecord {
            id: body.u32(),
            app: body.u32(),
            index: body.u32(),
            incarnation: body.u32(),
            lifecycle: body.take(),
            pid: body.u32(),
            pidfd_inode: body.u64(),
            started_at_ms: body.u64(),
            created_at_ms: body.u64(),
            revision: body.u32(),
            doomed: body.take() != [0],
            number: body.u32(),
            role: u8::from_le_bytes(body.take()),
            alone: body.take() != [0],
            main_pid: body.u32(),
            main_inode: body.u64(),
            told: body.take() != [0],
        }
    }
}

/// Fields as bytes.
pub(super) struct Body {
    bytes: [u8; BODY_BYTES],
    length: usize,
}

impl Body {
    pub(super) fn empty() -> Body {
        Body { bytes: [0; BODY_BYTES], length: 0 }
    }

    pub(super) fn of(fields: &impl Fields) -> Body {
        let mut body = Body::empty();
        fields.write(&mut body);
        body
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.bytes[self.length..self.length + N].copy_from_slice(&field);
        self.length += N;
    }
}

/// Fields still to be read. What a record of an older release does not have reads as zero.
pub(super) struct Reading<'a>(pub(super) &'a [u8]);

impl Reading<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
