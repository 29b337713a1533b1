//! The one system call that creates an instance, and the few that its child makes before it executes our binary.
//!
//! `clone` with a stack of its own and CLONE_VM | CLONE_VFORK, as `posix_spawn` does it, since nothing in std or the C
//! library creates a *sibling* (CLONE_PARENT): the keeper is the parent from birth. Costs the same whatever the size
//! of this process. Into a control group by `clone3`: to move a process afterwards has all others wait.
//!
//! Invariants
//! - Between clone and exec the child shares our memory: it allocates nothing, takes no lock, cannot panic, and
//!   touches only [`Plan`]. All signals are blocked, so that no handler of ours runs in it.
//! - Its table of descriptors is a copy: moving and marking there changes nothing here.

// The child of a vfork: raw system calls on memory that was prepared before.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::spawn::Parent;
use super::sys::{SignalsBlocked, reset_signals};

const STACK_BYTES: usize = 64 * 1024;
const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
/// libc's constant of this name is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What the child does, in full: everything is built before it exists.
pub struct Plan<'a> {
    /// Descriptors and the numbers that they get, each number once. All others are closed by the exec.
    pub descriptors: Vec<(RawFd, BorrowedFd<'a>)>,
    /// The binary to execute.
    pub binary: BorrowedFd<'a>,
    /// Its arguments, its name first.
    pub args: Vec<CString>,
    /// Its environment, for one that begins at once, and therefore with default signals. `None` for a stage: it has none, and
    /// all signals blocked until it has made itself ready.
    pub environment: Option<Vec<CString>>,
    /// The child's name until then.
    pub name: CString,
    /// Whose child it is.
    pub parent: Parent,
    /// The folder of the control group that it is born in, if that can be.
    pub group: Option<BorrowedFd<'a>>,
}

/// A child that executes the plan's binary.
pub struct Born {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// Whether it was born in the plan's group.
    pub grouped: bool,
}

/// Why there is no child.
#[derive(Debug)]
pub enum Stillborn {
    /// `clone` failed.
    Clone(io::Error),
    /// The child failed at this step; it has ended with status 125.
    Child { step: &'static str, source: io::Error, pidfd: OwnedFd },
}

/// What parent and child see of one another.
struct Shared<'a> {
    /// Targets and their sources; the child overwrites the latter.
    moves: &'a mut [(RawFd, RawFd)],
    /// Beyond all targets.
    beyond: RawFd,
    binary: RawFd,
    args: *const *const c_char,
    environment: *const *const c_char,
    begins_at_once: bool,
    name: &'a CStr,
    failure: Option<(&'static str, c_int)>,
}

/// Creates the child and returns once it runs the binary (or has failed to). Blocks its thread for as long.
pub fn give_birth(plan: &Plan<'_>) -> Result<Born, Stillborn> {
    let mut moves: Vec<(RawFd, RawFd)> =
        plan.descriptors.iter().map(|(target, source)| (*target, source.as_raw_fd())).collect();
    let beyond = moves.iter().map(|(target, _)| target + 1).max().unwrap_or(0);
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, environment) = (pointers(&plan.args), pointers(plan.environment.as_deref().unwrap_or_default()));
    let mut shared = Shared {
        moves: &mut moves,
        beyond,
        binary: plan.binary.as_raw_fd(),
        args: args.as_ptr(),
        environment: environment.as_ptr(),
        begins_at_once: plan.environment.is_some(),
        name: &plan.name,
        failure: None,
    };
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let to_child = (&raw mut shared).cast::<c_void>();
    let blocked = SignalsBlocked::new();
    let in_group = plan.group.map(|group| clone_into(group, plan.parent, &mut stack, to_child));
    let (born, grouped) = match in_group {
        Some(Ok(born)) => (Ok(born), true),
        // Whatever is wrong with the group, it can do without; what is wrong with us shows here again.
        Some(Err(_)) | None => (clone(plan.parent, &mut stack, to_child), false),
    };
    drop(blocked);
    let (pid, pidfd) = born.map_err(Stillborn::Clone)?;
    match shared.failure {
        None => Ok(Born { pid, pidfd, grouped }),
        Some((step, errno)) => Err(Stillborn::Child { step, source: io::Error::from_raw_os_error(errno), pidfd }),
    }
}

/// Creates the child by `clone`. The stack and what `shared` points to live on, unmoved, until it has executed or ended,
/// since CLONE_VFORK suspends this thread until then.
fn clone(parent: Parent, stack: &mut [u128], shared: *mut c_void) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    // SAFETY: the stack grows down from its aligned end and is larger than `child` needs; stack and `shared` live on as
    // said above; `child` keeps the rules at the top of this file; the pidfd is written before clone returns.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
            FLAGS | parent.clone_flag() | libc::SIGCHLD,
            shared,
            &raw mut pidfd,
            std::ptr::null_mut::<c_void>(),
            std::ptr::null_mut::<c_int>(),
        )
    };
    born(pid.into(), pidfd)
}

/// The same by `clone3`, into a control group.
fn clone_into(
    group: BorrowedFd<'_>,
    parent: Parent,
    stack: &mut [u128],
    shared: *mut c_void,
) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let args = libc::clone_args {
        flags: FLAGS as u64 | parent.clone_flag() as u64 | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // A sibling has the signal that we have.
        exit_signal: if parent == Parent::Caller { libc::SIGCHLD as u64 } else { 0 },
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.as_raw_fd() as u64,
    };
    // SAFETY: as for `clone`; the arguments are those of the kernel's structure, and outlive the call.
    let pid = unsafe { clone3(&args, shared) };
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    born(pid as i64, pidfd)
}

fn born(pid: i64, pidfd: c_int) -> io::Result<(u32, OwnedFd)> {
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the child was created, so the kernel has put a new descriptor here; nobody else knows it.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The raw call: no library has one that runs a function on the new stack. The child's number, or an error's, negative.
///
/// # Safety
/// The arguments name a stack of the child's own, which lives until it has executed or ended; so does `shared`.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &libc::clone_args, shared: *mut c_void) -> isize {
    let answer: isize;
    // SAFETY: in the parent this is a system call and nothing else. The child begins behind it with our registers and
    // an empty, aligned stack of its own (the caller's promise), calls `child`, and never comes back from there.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") shared,
            in("r13") child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: &libc::clone_args, shared: *mut c_void) -> isize {
    let answer: isize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") std::ptr::from_ref(args) as isize => answer,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x20") shared,
            in("x21") child as extern "C" fn(*mut c_void) -> c_int,
        );
    }
    answer
}

/// Elsewhere nobody has tried it yet: processes have no groups there.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(_args: &libc::clone_args, _shared: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}

/// The child's whole life before the exec.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `give_birth` passes its `Shared`, which outlives us, and touches it again only after we are gone.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    let failed = prepare(shared.moves, shared.beyond, &mut shared.binary, shared.name).err().unwrap_or_else(|| {
        if shared.begins_at_once {
            // No handler is left by the time that a signal comes through.
            reset_signals();
        }
        // SAFETY: arguments and environment are null-terminated arrays of C strings that `give_birth` holds.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                shared.binary,
                c"".as_ptr(),
                shared.args,
                shared.environment,
                libc::AT_EMPTY_PATH,
            )
        };
        "execute our own binary"
    });
    shared.failure = Some((failed, nix::errno::Errno::last_raw()));
    // SAFETY: ends this process alone, without running anything of the parent whose memory it shares.
    unsafe { libc::_exit(125) }
}

/// Leads a session of its own, and has the planned descriptors; others are closed by the exec.
fn prepare(moves: &mut [(RawFd, RawFd)], beyond: RawFd, binary: &mut RawFd, name: &CStr) -> Result<(), &'static str> {
    // SAFETY: all of these take numbers only, but for the name, which is a C string that outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        if libc::setsid() < 0 {
            return Err("begin a session");
        }
        // First all out of the way of the targets, then into place: a target may be the source of another, or the
        // binary.
        for (_, source) in moves.iter_mut() {
            *source = libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, beyond);
            if *source < 0 {
                return Err("duplicate a descriptor");
            }
        }
        *binary = libc::fcntl(*binary, libc::F_DUPFD_CLOEXEC, beyond);
        if *binary < 0 {
            return Err("duplicate a descriptor");
        }
        // What somebody opened without close-on-exec. Best effort here: the stage does it again and insists.
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (target, source) in moves.iter() {
            if libc::dup2(*source, *target) < 0 {
                return Err("move a descriptor");
            }
        }
    }
    Ok(())
}
