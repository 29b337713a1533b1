//! A keeper to test, and the supervisor that it starts.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use herdwire::keeper;
use herdwire::keeper::name::{Kind, Name};
use herdwire::keeper::start::{self, KeeperOptions};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// The longest that anything here may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const SOCKET: &str = "test.sock";

/// A keeper with its home.
pub struct Herd {
    home: PathBuf,
    folder: Option<tempfile::TempDir>,
    keeper: Pid,
    listener: Option<UnixListener>,
    ended: mpsc::Receiver<WaitStatus>,
}

impl Herd {
    pub fn start(change: impl FnOnce(&mut KeeperOptions)) -> Herd {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let mut herd = Herd::start_in(folder.path().to_owned(), change);
        herd.folder = Some(folder);
        herd.listener = Some(listener);
        herd
    }

    /// Where the keeper and its children may open so few descriptors.
    pub fn start_with_descriptors(limit: u64) -> Herd {
        Herd::start(|_| setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap())
    }

    pub fn start_with_stored(count: u32) -> Herd {
        let stored: Vec<(Name, OwnedFd)> = (0..count).map(descriptor).collect();
        Herd::start(|options| options.stored = stored)
    }

    /// Starts a keeper in a home that exists. `change` runs in the keeper's process.
    pub fn start_in(home: PathBuf, change: impl FnOnce(&mut KeeperOptions)) -> Herd {
        // SAFETY: the child runs on with the one thread that forked. It takes no lock that another thread of the test
        // could have held: the allocator's are made good by the C library, and the keeper uses none of the language's.
        let keeper = match unsafe { fork() }.unwrap() {
            ForkResult::Child => be_keeper(&home, change),
            ForkResult::Parent { child } => child,
        };
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || waitpid(keeper, None).map(|status| tell.send(status)));
        Herd { home, folder: None, keeper, listener: None, ended }
    }

    /// The supervisor that connects next.
    pub fn supervisor(&self) -> Supervised {
        let listener = self.listener.as_ref().unwrap();
        wait_until(|| {
            listener.set_nonblocking(true).unwrap();
            listener.accept().ok()
        })
        .map(|(stream, _)| Supervised::greet(stream))
        .expect("no supervisor connected")
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn remove_home(&mut self) {
        self.folder.take().unwrap().close().unwrap();
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_raw() as u32
    }

    /// Waits until a process is gone.
    pub fn wait_for_end(&self, pid: u32) {
        wait_until(|| (!alive(pid)).then_some(())).unwrap_or_else(|| panic!("process {pid} does not end"));
    }

    /// Waits until the keeper runs this program.
    pub fn wait_for_program(&self, program: &Path) {
        let program = program.canonicalize().unwrap();
        let link = format!("/proc/{}/exe", self.keeper);
        wait_until(|| (fs::read_link(&link).ok()? == program).then_some(())).expect("the keeper's program stays");
    }

    /// Signals a process of this herd.
    pub fn kill(&self, pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid as i32), signal).unwrap();
    }

    /// How many descriptors the keeper has open.
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.keeper)).unwrap().count()
    }

    /// Waits until so many children of the keeper have ended and were not reaped.
    pub fn wait_for_zombies(&self, count: usize) {
        let zombie = format!("Z {} ", self.keeper);
        let is_ours = |stat: &String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(&zombie));
        let stat = |entry: io::Result<fs::DirEntry>| fs::read_to_string(entry.ok()?.path().join("stat")).ok();
        let zombies = || fs::read_dir("/proc").unwrap().filter_map(stat).filter(is_ours).count();
        let found = wait_until(|| (zombies() == count).then_some(()));
        found.unwrap_or_else(|| panic!("{} zombies, not {count}", zombies()));
    }

    /// Waits for the keeper's end.
    pub fn exit_code(&self) -> i32 {
        match self.ended.recv_timeout(LIMIT).expect("the keeper does not end") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("the keeper ended by {other:?}"),
        }
    }

    pub fn wait_for_log(&self, text: &str) {
        let log = self.home.join("herdwire.log");
        let found = wait_until(|| fs::read_to_string(&log).is_ok_and(|log| log.contains(text)).then_some(()));
        found.unwrap_or_else(|| panic!("no `{text}` in {}", fs::read_to_string(&log).unwrap_or_default()));
    }
}

/// A keeper that is still there ends before its home.
impl Drop for Herd {
    fn drop(&mut self) {
        if self.folder.is_some() && self.ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
            // A test that failed may have left it stopped, or with a supervisor that does not end anything. Should it have
            // ended just now, it needs none of this.
            let _ = kill(self.keeper, Signal::SIGCONT);
            for _ in 0..20 {
                let _ = kill(self.keeper, Signal::SIGTERM);
                if self.ended.recv_timeout(Duration::from_millis(1100)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
        }
    }
}

/// Looks again and again, which the kernel offers no better way for: files, and processes of others.
fn wait_until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether there is such a process, other than as a zombie.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

fn be_keeper(home: &Path, change: impl FnOnce(&mut KeeperOptions)) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // Should the test be killed, nothing of it is to stay.
        prctl::set_pdeathsig(Signal::SIGTERM).unwrap();
        // As bad a start as a careless parent can give.
        // SAFETY: no handler is installed, only ignored.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).unwrap();
        let mut options = KeeperOptions::new(home.to_owned());
        change(&mut options);
        start::start(options).unwrap()
    }));
    // SAFETY: ends the process at once: nothing of the test that it is a fork of is to run here.
    unsafe { libc::_exit(code.unwrap_or(101)) }
}

/// The roles of keeper and supervisor, as `main` of the binary has them: before the harness of the tests begins, which has
/// threads and a command line of its own.
#[used]
// SAFETY: the C library calls what stands there with the process's arguments, before `main`, in its only thread.
#[unsafe(link_section = ".init_array")]
static ROLE: extern "C" fn() = take_role;

extern "C" fn take_role() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("__keeper") => std::process::exit(keeper::keep(arguments.next().unwrap().parse().unwrap()).unwrap()),
        Some("__supervisor") => supervisor::main(),
        _ => {}
    }
}

/// A descriptor that shows its number, under a name with that number.
fn descriptor(number: u32) -> (Name, OwnedFd) {
    let file = File::from(memfd_create(c"stored", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all_at(&number.to_le_bytes(), 0).unwrap();
    (Name::new(Kind::Pidfd, number, 1), file.into())
}

fn shows(descriptor: &OwnedFd) -> u32 {
    let mut number = [0; 4];
    File::from(descriptor.try_clone().unwrap()).read_exact_at(&mut number, 0).unwrap();
    u32::from_le_bytes(number)
}

/// The test's side of one supervisor.
pub struct Supervised {
    stream: BufReader<UnixStream>,
    greeting: String,
}

impl Supervised {
    fn greet(stream: UnixStream) -> Supervised {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut supervised = Supervised { stream: BufReader::new(stream), greeting: String::new() };
        supervised.greeting = supervised.answer();
        supervised
    }

    pub fn pid(&self) -> u32 {
        self.told("pid").parse().unwrap()
    }

    /// What it found when it started.
    pub fn told(&self, what: &str) -> &str {
        let mut parts = self.greeting.split(';').filter_map(|part| part.split_once('='));
        parts.find(|(name, _)| *name == what).unwrap_or_else(|| panic!("no {what} in {}", self.greeting)).1
    }

    /// Gives a command that is not answered.
    pub fn say(&mut self, command: &str) {
        writeln!(self.stream.get_mut(), "{command}").unwrap();
    }

    /// Gives a command; the answer.
    pub fn tell(&mut self, command: &str) -> String {
        self.say(command);
        self.answer()
    }

    pub fn ask_pid(&mut self, command: &str) -> u32 {
        self.tell(command).parse().unwrap()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the supervisor is gone");
        line.trim_end().to_owned()
    }
}

/// The supervisor's process.
pub mod supervisor {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use herdwire::keeper::client::{Exit, FromKeeper, Inheritance, KeeperLink, Reason};
    use herdwire::keeper::handle::Store;
    use herdwire::keeper::heir::{Heirloom, become_keeper};
    use herdwire::keeper::protocol::Words;
    use herdwire::keeper::trial::{self, Trial};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// The number that a supervisor which becomes the keeper gives as that of the last exit.
    pub const LAST_EXIT: u64 = 41;

    struct Supervisor {
        link: KeeperLink,
        store: Store,
        hello: Words,
        exits: Vec<Exit>,
        trial: Option<Trial>,
        /// Says nothing more of its own accord; has not taken over yet.
        silent: Arc<AtomicBool>,
        on_trial: Arc<AtomicBool>,
    }

    pub fn main() -> ! {
        let open = open_descriptors();
        let mut link = KeeperLink::adopt_inherited().unwrap();
        let inheritance = link.inheritance(LIMIT).unwrap();
        let stream = UnixStream::connect(Path::new(&std::env::var("HERDWIRE_HOME").unwrap()).join(SOCKET)).unwrap();
        let mut commands = BufReader::new(stream);
        writeln!(commands.get_mut(), "{}", greeting(&inheritance, &open)).unwrap();
        let on_trial = Arc::new(AtomicBool::new(inheritance.reason == Reason::Upgrade));
        let silent = say_alive(&link, &on_trial);
        let store = Store::holding(link.sender(), &inheritance.descriptors).unwrap();
        let (hello, exits) = (inheritance.hello, inheritance.exits);
        let mut supervisor = Supervisor { link, store, hello, exits, trial: None, silent, on_trial };
        loop {
            let mut line = String::new();
            match commands.read_line(&mut line) {
                // The test is over, or was killed. Should the keeper be gone as well, there is nobody to tell.
                Ok(0) | Err(_) => {
                    let _ = supervisor.link.goodbye(0);
                    std::process::exit(0);
                }
                Ok(_) => {}
            }
            let answer = match line.trim_end() {
                "take" => supervisor.take(&open),
                "become-keeper" => supervisor.become_keeper(),
                command => supervisor.obey(command),
            };
            writeln!(commands.get_mut(), "{answer}").unwrap();
        }
    }

    /// Says that it is alive until it is told to be silent. A standby ends when nobody is there whom it could follow.
    fn say_alive(link: &KeeperLink, on_trial: &Arc<AtomicBool>) -> Arc<AtomicBool> {
        let silent = Arc::new(AtomicBool::new(false));
        let (sender, told, on_trial) = (link.sender(), Arc::clone(&silent), Arc::clone(on_trial));
        std::thread::spawn(move || {
            let gone = || sender.alive().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut);
            while !told.load(Ordering::Relaxed) {
                if gone() {
                    return if on_trial.load(Ordering::Relaxed) {
                        std::process::exit(78)
                    };
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        silent
    }

    impl Supervisor {
        fn take(&mut self, open: &str) -> String {
            let inheritance = self.link.inheritance(LIMIT).unwrap();
            self.on_trial.store(false, Ordering::Relaxed);
            let greeting = greeting(&inheritance, open);
            self.store = Store::holding(self.link.sender(), &inheritance.descriptors).unwrap();
            (self.hello, self.exits) = (inheritance.hello, inheritance.exits);
            greeting
        }

        fn become_keeper(&mut self) -> String {
            // That of the keeper, which is dead: what it was leaves nothing behind but what we hold.
            wait_until(|| matches!(self.link.try_receive().unwrap(), Some(FromKeeper::Gone)).then_some(())).unwrap();
            let left = Heirloom { descriptors: self.store.take(), last_exit: LAST_EXIT, hello: self.hello };
            panic!("{}", become_keeper(left));
        }

        fn obey(&mut self, command: &str) -> String {
            let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
            let number = || rest.parse::<u32>().unwrap();
            let link = &mut self.link;
            match verb {
                "prove" => link.ready().unwrap(),
                "ready" => {
                    link.ready().unwrap();
                    self.store.keep_program().unwrap();
                }
                "store" => store(&self.store, number()),
                "store-unheard" => return store_unheard(link, number()),
                "store-and-die" => {
                    store(&self.store, number());
                    kill(Pid::this(), Signal::SIGKILL).unwrap();
                }
                "keep" => self.store.keep(Name::new(Kind::Supervisor, 0, 0), open(rest).as_fd()),
                "forget" => self.store.forget(Name::new(Kind::Pidfd, number(), 1)),
                "acknowledge" => link.acknowledge(number().into()).unwrap(),
                "silence" => self.silent.store(true, Ordering::Relaxed),
                "spawn" => return spawn(rest),
                "litter" => (0..number()).for_each(|_| assert!(clone_sibling(|| 1) > 0)),
                "take-exits" => return take_exits(link, &mut self.exits, number().into()),
                "exit" => return text(next_exit(link, &mut self.exits)),
                "news" => return text_of_news(news(link)),
                "try" => return self.try_out(rest),
                "proved" => return self.proved(),
                "give-up" => drop(self.trial.take()),
                "hand-over" => self.trial.as_mut().unwrap().hand_over(&link.sender()).unwrap(),
                "renew" => link.sender().renew(open(rest).as_fd()).unwrap(),
                "exit-with" => std::process::exit(rest.parse().unwrap()),
                "goodbye" => {
                    link.goodbye(rest.parse().unwrap()).unwrap();
                    std::process::exit(0);
                }
                other => panic!("what is `{other}`?"),
            }
            "done".into()
        }

        /// Starts a standby; its pid.
        fn try_out(&mut self, program: &str) -> String {
            let stderr = open("/dev/null");
            let begin = |all: &_| Trial::begin(open(program).as_fd(), stderr.as_fd(), self.hello, all);
            match self.store.look(begin) {
                Ok(trial) => self.trial.insert(trial).pid().to_string(),
                Err(error) => error.to_string(),
            }
        }

        /// Waits until the standby says that it could take over, or is gone.
        fn proved(&self) -> String {
            let line = self.trial.as_ref().unwrap().line().unwrap();
            wait_until(|| trial::hear(line.as_fd()).ok()).unwrap().to_string()
        }
    }

    fn open(path: &str) -> File {
        File::open(path).unwrap()
    }

    fn store(store: &Store, count: u32) {
        for (name, descriptor) in (0..count).map(descriptor) {
            store.keep(name, descriptor.as_fd());
        }
    }

    /// Stores until the keeper takes no more; how many it took.
    fn store_unheard(link: &KeeperLink, count: u32) -> String {
        let refused = |number: &u32| {
            let (name, descriptor) = descriptor(*number);
            link.store(name, descriptor.as_fd()).map_err(|error| error.kind()) == Err(io::ErrorKind::TimedOut)
        };
        (0..count).find(refused).unwrap_or(count).to_string()
    }

    /// Starts a child of the keeper, as instances are, that runs `script`; its pid.
    fn spawn(script: &str) -> String {
        let script = CString::new(script).unwrap();
        let arguments = [c"sh", c"-c", &script].map(CStr::as_ptr);
        let arguments = [&arguments[..], &[std::ptr::null()]].concat();
        // SAFETY: called in the child of a clone: one system call, on what was made before.
        let run = || unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) };
        clone_sibling(run).to_string()
    }

    fn clone_sibling(child: impl FnOnce() -> i32) -> libc::c_long {
        // SAFETY: like fork, and the child makes system calls only.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) } {
            0 => {
                let code = child();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(code) }
            }
            pid => pid,
        }
    }

    fn take_exits(link: &mut KeeperLink, inherited: &mut Vec<Exit>, count: u64) -> String {
        let mut first = None;
        let mut last = 0;
        while last < count {
            let exit = next_exit(link, inherited);
            assert!(first.is_none() || exit.sequence == last + 1, "{} after {last}", exit.sequence);
            first.get_or_insert(exit.sequence);
            last = exit.sequence;
            link.acknowledge(last).unwrap();
        }
        format!("{} to {last}", first.unwrap())
    }

    /// The next exit: of those that were inherited first.
    fn next_exit(link: &mut KeeperLink, inherited: &mut Vec<Exit>) -> Exit {
        if !inherited.is_empty() {
            return inherited.remove(0);
        }
        loop {
            match news(link) {
                FromKeeper::Exit(exit) => return exit,
                FromKeeper::Gone => panic!("the keeper is gone"),
                _ => {}
            }
        }
    }

    fn news(link: &mut KeeperLink) -> FromKeeper {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(news) = link.try_receive().unwrap() {
                return news;
            }
            assert!(Instant::now() < deadline, "no news");
            poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1000_u16)).unwrap();
        }
    }

    fn text_of_news(news: FromKeeper) -> String {
        match news {
            FromKeeper::Exit(exit) => text(exit),
            FromKeeper::StoreRefused(name) => format!("StoreRefused {name}"),
            other => format!("{other:?}"),
        }
    }

    fn text(exit: Exit) -> String {
        assert_ne!(exit.pidfd_inode, 0, "this kernel has pidfs");
        format!("{} {} {:?}", exit.sequence, exit.pid, exit.status)
    }

    fn greeting(inheritance: &Inheritance, open: &str) -> String {
        let of_tests = |name: &Name| name.kind == Kind::Pidfd;
        let descriptors = inheritance.descriptors.iter().filter(|(name, _)| of_tests(name));
        let mixed_up = descriptors.clone().filter(|(name, file)| name.owner != shows(file)).count();
        let exits: Vec<String> = inheritance.exits.iter().take(100).map(|exit| text(*exit)).collect();
        format!(
            "pid={};epoch={};reason={:?};foreground={};keeper={};store_limit={};descriptors={};mixed_up={mixed_up};exits={};\
             home={};open={open};blocked={};ignored={};notify={};parent={};program={}",
            std::process::id(),
            inheritance.epoch,
            inheritance.reason,
            inheritance.foreground,
            inheritance.keeper_pid,
            inheritance.store_limit,
            descriptors.count(),
            exits.join(","),
            std::env::var("HERDWIRE_HOME").unwrap(),
            status_line("SigBlk"),
            status_line("SigIgn"),
            std::env::vars_os().any(|(name, _)| name.to_string_lossy().contains("NOTIFY_SOCKET")),
            nix::unistd::getppid(),
            fs::read_link("/proc/self/exe").unwrap().display(),
        )
    }

    fn status_line(name: &str) -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
        line.to_owned()
    }

    fn open_descriptors() -> String {
        let list: io::Result<Vec<_>> = fs::read_dir("/proc/self/fd").unwrap().collect();
        let names = list.unwrap().into_iter().map(|entry| entry.file_name().into_string().unwrap());
        let mut numbers: Vec<u32> = names.map(|name| name.parse().unwrap()).collect();
        numbers.sort_unstable();
        // The last one is the folder that was just read.
        numbers.pop();
        numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    }
}
