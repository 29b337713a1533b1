//! One look: does it accept, does it answer, does the command succeed?
//!
//! Everything has a limit: time, bytes read of an answer. A command is run as the app is (folder, environment), in a session of its own
//! that is killed with all its processes at the limit or when nobody wants to know any more; its output goes nowhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use herdwire_ipc::tokio::Watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::spec::{Bounds, Command, EnvFile, ProbeTarget};
use crate::process::{self, Launch, OpenFiles, Output, Pidfd, env_file};

/// Bytes of an HTTP answer that are read to find its status.
const STATUS_LINE: usize = 1024;
/// What a killed command may take to end.
const CLEAN_UP: Duration = Duration::from_secs(2);

/// How a command is run: as the app is. Holds an environment, so it has no Debug.
#[derive(Default)]
pub struct Surroundings {
    pub cwd: PathBuf,
    pub env: Vec<(String, String)>,
    /// Read for every look, as for every start: what is in them is kept nowhere.
    pub env_files: Vec<EnvFile>,
    /// Variables that no file may change.
    pub own: Vec<String>,
    pub bounds: Bounds,
    pub open_files: Option<OpenFiles>,
    /// For `ps`.
    pub label: String,
}

/// Why a look did not find its target well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The end of a sentence.
    pub why: String,
    /// It was we who could not look: no descriptor, process or memory was left, or nobody wants to know any more. It
    /// says nothing of the target.
    pub ours: bool,
}

impl Failure {
    fn theirs(why: String) -> Failure {
        Failure { why, ours: false }
    }

    fn of(error: &io::Error, why: String) -> Failure {
        use libc::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        let scarce = |number| [EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(&number);
        Failure { why, ours: error.raw_os_error().is_some_and(scarce) }
    }

    fn unwanted() -> Failure {
        Failure { why: "nobody wants to know any more".to_owned(), ours: true }
    }
}

/// Looks once.
///
/// # Errors
/// Why the target is not well, or why that cannot be said.
pub async fn once(
    target: &ProbeTarget,
    limit: Duration,
    around: &Arc<Surroundings>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    match target {
        ProbeTarget::Exec(command) => run(command, limit, around, stop).await,
        ProbeTarget::Tcp(address) => {
            let connected = TcpStream::connect(address);
            let connected = in_time(connected, limit, stop).await?;
            connected.map(drop).map_err(|error| Failure::of(&error, format!("{address}: {error}")))
        }
        ProbeTarget::Http { address, host, path } => {
            let asked = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(request(host, path).as_bytes()).await?;
                first_line(&mut stream).await
            };
            let line = in_time(asked, limit, stop).await?;
            let failed = |error: io::Error| Failure::of(&error, format!("http://{address}{path}: {error}"));
            let line = line.map_err(failed)?;
            verdict(&line).map_err(|what| Failure::theirs(format!("http://{address}{path}: {what}")))
        }
    }
}

async fn in_time<T>(asked: impl Future<Output = T>, limit: Duration, stop: &CancellationToken) -> Result<T, Failure> {
    tokio::select! {
        answer = timeout(limit, asked) => {
            answer.map_err(|_| Failure::theirs(format!("no answer within {limit:?}")))
        },
        () = stop.cancelled() => Err(Failure::unwanted()),
    }
}

fn request(host: &str, path: &str) -> String {
    // A header cannot be added through the settings.
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let (host, path) = (clean(host), clean(path));
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: herdwire\r\nAccept: */*\r\nConnection: close\r\n\r\n")
}

async fn first_line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(STATUS_LINE);
    while bytes.len() < STATUS_LINE && !bytes.contains(&b'\n') {
        let mut piece = [0; 256];
        match stream.read(&mut piece).await? {
            0 => break,
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
    bytes.truncate(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    Ok(bytes)
}

/// What a status line says: 2xx and 3xx are well.
fn verdict(line: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status = words.next().filter(|_| is_http).and_then(|word| word.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("status {status}")),
        None if line.is_empty() => Err("the connection ended without an answer".to_owned()),
        None => Err("the answer is no HTTP".to_owned()),
    }
}

async fn run(
    command: &Command,
    limit: Duration,
    around: &Arc<Surroundings>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let program = command.program.display().to_string();
    let (command, around) = (command.clone(), Arc::clone(around));
    // It blocks until the trampoline runs.
    let born = tokio::task::spawn_blocking(move || {
        let nowhere = || io::Result::Ok(OwnedFd::from(File::options().write(true).open("/dev/null")?));
        let files = env_file::read(&around.env_files).map_err(io::Error::other)?;
        let launch = Launch {
            env: env_file::over(around.env.clone(), files, &around.own),
            out: Output::File(nowhere()?),
            err: Output::File(nowhere()?),
            bounds: Some(&around.bounds),
            open_files: around.open_files,
            ..Launch::new(&command.program, &command.args, &around.cwd, &around.label)
        };
        process::spawn(launch).map_err(io::Error::other)
    });
    let spawned = born.await.map_err(io::Error::other).and_then(|born| born);
    // Whatever it is, a file of variables that is gone or a lack of processes: the app is not to blame.
    let spawned = spawned.map_err(|error| Failure { why: format!("{program} cannot be run: {error}"), ours: true })?;
    let child = Child(spawned.pidfd);
    // Failing that it has ended already, which shows below.
    let _ = spawned.go.release();
    let ended = tokio::select! {
        ended = timeout(limit, child.ended()) => {
            ended.map_err(|_| Failure::theirs(format!("{program} has not ended within {limit:?}")))
        }
        () = stop.cancelled() => Err(Failure::unwanted()),
    };
    let status = child.finish().await;
    ended?.map_err(|error| Failure::of(&error, format!("{program} cannot be waited for: {error}")))?;
    let ended = match status.map(|status| (status.code(), std::os::unix::process::ExitStatusExt::signal(&status))) {
        Some((Some(0), _)) => return Ok(()),
        Some((Some(code), _)) => format!("ended with {code}"),
        Some((None, Some(signal))) => format!("was ended by signal {signal}"),
        _ => "ended, nobody knows how".to_owned(),
    };
    Err(Failure::theirs(format!("{program} {ended}")))
}

/// A probe's process. Dropped without [`Child::finish`] (the runtime ends) it is killed, and reaped by the keeper, to whom it
/// comes then.
struct Child(Pidfd);

impl Child {
    async fn ended(&self) -> io::Result<()> {
        let watched = Watched::new(self.0.as_fd().try_clone_to_owned()?)?;
        watched.readable().await.map(drop)
    }

    /// Kills what is left of it, and reaps it.
    async fn finish(self) -> Option<std::process::ExitStatus> {
        self.kill();
        if timeout(CLEAN_UP, self.ended()).await.is_err() {
            // In an uninterruptible wait: it cannot be reaped yet and is left to whoever outlives us.
            return None;
        }
        self.0.reap().ok().flatten()
    }

    fn kill(&self) {
        // Nothing may be left of it, which is what is wanted.
        let _ = self.0.signal_group(libc::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn around() -> Arc<Surroundings> {
        let env = vec![("PROBED".into(), "yes".into())];
        Arc::new(Surroundings { cwd: "/tmp".into(), env, label: "p".into(), ..Surroundings::default() })
    }

    async fn sh(script: &str, limit: Duration) -> Result<(), String> {
        let args = vec!["-c".to_owned(), script.to_owned()];
        look(ProbeTarget::Exec(Command { program: "/bin/sh".into(), args }), limit).await
    }

    async fn look(target: ProbeTarget, limit: Duration) -> Result<(), String> {
        let looked = once(&target, limit, &around(), &CancellationToken::new()).await;
        looked.map_err(|failure| {
            assert!(!failure.ours || failure.why.contains("cannot be run"), "{failure:?}");
            failure.why
        })
    }

    /// Answers one connection with these bytes.
    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\nHost: here\r\n"));
            stream.write_all(answer).await.unwrap();
        });
        address
    }

    async fn http(answer: &'static [u8]) -> Result<(), String> {
        let address = server(answer).await;
        look(ProbeTarget::Http { address, host: "here".into(), path: "/health".into() }, LIMIT).await
    }

    #[tokio::test]
    async fn an_address_that_accepts_is_well_and_one_that_does_not_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(look(ProbeTarget::Tcp(address), LIMIT).await, Ok(()));
        drop(listener);
        let why = look(ProbeTarget::Tcp(address), LIMIT).await.unwrap_err();
        assert!(why.contains("refused"), "{why}");
    }

    #[tokio::test]
    async fn a_server_is_well_when_it_answers_2xx_or_3xx() {
        assert_eq!(http(b"HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(http(b"HTTP/1.0 302 Found\r\n\r\n").await, Ok(()));
        assert!(http(b"HTTP/1.1 503 Busy\r\n\r\n").await.unwrap_err().contains("status 503"));
        assert!(http(b"SSH-2.0-OpenSSH\r\n").await.unwrap_err().contains("no HTTP"));
        assert!(http(b"").await.unwrap_err().contains("without an answer"));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_at_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = ProbeTarget::Http { address, host: "here".into(), path: "/".into() };
        let why = look(target, Duration::from_millis(50)).await.unwrap_err();
        assert!(why.contains("no answer within"), "{why}");
    }

    #[tokio::test]
    async fn an_address_that_takes_no_connection_is_given_up_at_the_limit() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // The backlog has room for one more than it says; a second one is answered by nobody.
        let _first = TcpStream::connect(address).await.unwrap();
        let why = look(ProbeTarget::Tcp(address), Duration::from_millis(50)).await.unwrap_err();
        assert!(why.contains("no answer within"), "{why}");
    }

    #[tokio::test]
    async fn a_command_is_well_when_it_ends_with_0_in_the_apps_folder_and_environment() {
        assert_eq!(sh("test $PWD = /tmp && test $PROBED = yes && yes | head -c 1000000", LIMIT).await, Ok(()));
        assert!(sh("exit 3", LIMIT).await.unwrap_err().contains("ended with 3"));
        assert!(sh("kill -9 $$", LIMIT).await.unwrap_err().contains("signal 9"));
        let nothing = Command { program: "/nonexistent".into(), args: Vec::new() };
        assert!(look(ProbeTarget::Exec(nothing), LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_and_leaves_no_zombie() {
        let why = sh("trap '' TERM INT; while :; do :; done", Duration::from_millis(200)).await.unwrap_err();
        assert!(why.contains("has not ended within"), "{why}");
        // Nobody is left to be waited for: alone in its process under nextest.
        let any = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(any, Err(nix::errno::Errno::ECHILD));
    }

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_any_more_is_killed() {
        let (stop, args) = (CancellationToken::new(), vec!["1000".to_owned()]);
        let target = ProbeTarget::Exec(Command { program: "/bin/sleep".into(), args });
        let around = around();
        let looking = once(&target, LIMIT, &around, &stop);
        stop.cancel();
        assert_eq!(looking.await, Err(Failure::unwanted()));
    }

    #[test]
    fn a_setting_cannot_add_a_header() {
        assert!(!request("here\r\nX: y", "/").contains("\r\nX"));
    }

    #[test]
    fn an_answer_is_judged_by_its_first_line_alone() {
        for noise in [&b"HTTP/1.1"[..], b"HTTP/1.1 two", b"HTTP/2 200", b"\xff\xfe", b"HTTP/1.1 99999"] {
            assert!(verdict(noise).is_err(), "{noise:?}");
        }
    }
}
