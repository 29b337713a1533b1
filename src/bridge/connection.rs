//! A pair of connections to Redis: the only place that knows the `redis` crate.
//!
//! One connection publishes, the other listens, so that a backlog on one side does not delay or cut the other. Both
//! speak RESP3: pushes go through a closure into our bounded inbox (the crate's own queues are unbounded), replies
//! have a time limit of ours (the crate's is half a second), reconnection and re-subscription are the driver's.
//!
//! Invariants
//! - Whatever goes wrong on one connection ends both: dropping the pair closes them.
//! - A pair is opened only on a primary that has loaded its data, and is asked again every two seconds, beside
//!   whatever else it does.
//! - No error that leaves here holds user or password.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::envelope::MAX_ENVELOPE;
use super::inbox::{Entrance, Pushed};
use super::parcel::{Parcel, Reply};
use super::stream::Sieved;
use super::trouble::Trouble;

/// For a new pair to be connected, authenticated and checked.
const OPEN: Duration = Duration::from_secs(3);
/// For the reply to anything later. Longer than a pause of the server that is no trouble yet, a slow `SAVE` say.
const RESPONSE: Duration = Duration::from_secs(5);
/// Between two checks of a pair. A half-open connection is found within this and a reply's time limit.
const HEALTH: Duration = Duration::from_secs(2);
/// Channels named in one command.
const CHANNELS_AT_ONCE: usize = 256;

/// Where Redis is and how one gets in.
pub(super) struct Target {
    info: ConnectionInfo,
    /// For sentences: without user and password.
    address: String,
}

/// Two working connections.
pub(super) struct Pair {
    publisher: MultiplexedConnection,
    subscriber: MultiplexedConnection,
    /// What serves the sockets and what watches them. They end with their connection, and with the pair; the first
    /// one to end may know why.
    tasks: JoinSet<Option<Trouble>>,
    explain: Explain,
}

/// What is needed to make a [`Trouble`] of an error.
#[derive(Clone)]
struct Explain {
    address: String,
    /// Never to be repeated.
    secrets: Vec<String>,
}

impl Target {
    /// Takes a URL apart; `address` is what may be shown of it.
    pub(super) fn parse(url: &str, address: String) -> Result<Target, Trouble> {
        if url.starts_with("rediss:") || url.starts_with("valkeys:") {
            return Err(Trouble::Tls);
        }
        let info = url.into_connection_info().map_err(|_| Trouble::Url)?;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        Ok(Target { info: info.set_redis_settings(redis), address })
    }

    fn explain(&self) -> Explain {
        let redis = self.info.redis_settings();
        let secrets = redis.password().into_iter().filter(|secret| !secret.is_empty()).map(str::to_owned).collect();
        Explain { address: self.address.clone(), secrets }
    }
}

impl Pair {
    /// Connects twice, checks the server, and from then on hands what is pushed to `entrance`.
    pub(super) async fn open(target: &Target, entrance: &Entrance) -> Result<Pair, Trouble> {
        let explain = target.explain();
        timeout(OPEN, Pair::open_in_time(target, entrance, explain.clone()))
            .await
            .unwrap_or_else(|_| Err(explain.silent(OPEN)))
    }

    async fn open_in_time(target: &Target, entrance: &Entrance, explain: Explain) -> Result<Pair, Trouble> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE)).set_connection_timeout(None);
        let entrance = entrance.clone();
        let listening = config.clone().set_push_sender(move |push: PushInfo| {
            take_in(&entrance, push);
            Ok::<_, redis::aio::SendError>(())
        });
        let mut tasks = JoinSet::new();
        let publisher = connect(target, config, &mut tasks).await.map_err(|error| explain.trouble(&error))?;
        let subscriber = connect(target, listening, &mut tasks).await.map_err(|error| explain.trouble(&error))?;
        let mut ends = (publisher.clone(), subscriber.clone());
        explain.check(&mut ends).await?;
        let watcher = explain.clone();
        tasks.spawn(async move { Some(watcher.watch(ends).await) });
        Ok(Pair { publisher, subscriber, tasks, explain })
    }

    /// Begins to listen; once this returns the server has confirmed every channel.
    pub(super) async fn subscribe(&mut self, channels: &[&str]) -> Result<(), Trouble> {
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            self.subscriber.subscribe(some).await.map_err(|error| self.explain.trouble(&error))?;
        }
        Ok(())
    }

    /// Stops listening.
    pub(super) async fn unsubscribe(&mut self, channels: &[&str]) -> Result<(), Trouble> {
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            self.subscriber.unsubscribe(some).await.map_err(|error| self.explain.trouble(&error))?;
        }
        Ok(())
    }

    /// Publishes all parcels in one round trip. An error means that nobody knows which of them the server took; it
    /// may still take them later. The second half says why a parcel was not taken, if one was not.
    pub(super) async fn publish(&mut self, parcels: &[Parcel]) -> Result<(Vec<Reply>, Option<Trouble>), Trouble> {
        let mut commands = redis::Pipeline::with_capacity(parcels.len());
        for parcel in parcels {
            commands.cmd("PUBLISH").arg(&parcel.lane.name).arg(&parcel.bytes[..]);
        }
        let values = self.publisher.send_packed_commands(&commands, 0, parcels.len()).await;
        let values = values.map_err(|error| self.explain.trouble(&error))?;
        let mut trouble = None;
        let mut reply_of = |value: Value| match value.extract_error() {
            Ok(_) => Reply::Taken,
            Err(error) => {
                let reply = if is_final(&error) { Reply::Refused } else { Reply::Later };
                trouble.get_or_insert(self.explain.trouble(&error));
                reply
            }
        };
        let replies = values.into_iter().map(&mut reply_of).collect();
        Ok((replies, trouble))
    }

    /// Returns when one of the connections has ended or did not pass a check. Cancel safe.
    pub(super) async fn lost(&mut self) -> Trouble {
        match self.tasks.join_next().await {
            Some(Ok(Some(trouble))) => trouble,
            _ => Trouble::Lost { address: self.explain.address.clone() },
        }
    }
}

/// One connection, its socket served by a task of `tasks`.
async fn connect(
    target: &Target,
    config: AsyncConnectionConfig,
    tasks: &mut JoinSet<Option<Trouble>>,
) -> Result<MultiplexedConnection, RedisError> {
    let redis = target.info.redis_settings();
    match target.info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            socket.set_nodelay(true)?;
            serve(redis, socket, config, tasks).await
        }
        ConnectionAddr::Unix(path) => serve(redis, UnixStream::connect(path).await?, config, tasks).await,
        _ => Err((ErrorKind::InvalidClientConfig, "neither TCP nor a Unix socket").into()),
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    redis: &RedisConnectionInfo,
    socket: S,
    config: AsyncConnectionConfig,
    tasks: &mut JoinSet<Option<Trouble>>,
) -> Result<MultiplexedConnection, RedisError> {
    let socket = Sieved::new(socket, MAX_ENVELOPE as u64);
    let (connection, driver) = MultiplexedConnection::new_with_config(redis, socket, config).await?;
    tasks.spawn(async {
        driver.await;
        None
    });
    Ok(connection)
}

/// What the reader does with a push. Confirmations of subscriptions come this way too and are not for us.
fn take_in(entrance: &Entrance, push: PushInfo) {
    if push.kind != PushKind::Message {
        return;
    }
    let mut data = push.data.into_iter();
    if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (data.next(), data.next()) {
        entrance.offer(Pushed { channel, payload: payload.into() });
    }
}

/// Whether to say it again would get the same answer.
fn is_final(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

impl Explain {
    /// Asks both ends again and again; returns what is wrong once something is.
    async fn watch(&self, mut ends: (MultiplexedConnection, MultiplexedConnection)) -> Trouble {
        loop {
            sleep(HEALTH).await;
            if let Err(trouble) = self.check(&mut ends).await {
                return trouble;
            }
        }
    }

    async fn check(&self, ends: &mut (MultiplexedConnection, MultiplexedConnection)) -> Result<(), Trouble> {
        tokio::try_join!(self.vouch(&mut ends.0), self.vouch(&mut ends.1)).map(|_| ())
    }

    /// Alive, loaded and a primary: a replica takes what is published and hands it to nobody, without an error.
    async fn vouch(&self, connection: &mut MultiplexedConnection) -> Result<(), Trouble> {
        let mut questions = redis::Pipeline::with_capacity(2);
        questions.cmd("PING").cmd("ROLE");
        let answers = connection.send_packed_commands(&questions, 0, 2).await;
        let answers = answers.map_err(|error| self.trouble(&error))?;
        let mut role = None;
        for answer in answers {
            role = Some(answer.extract_error().map_err(|error| self.trouble(&error))?);
        }
        match role_in(role.as_ref()) {
            Some(b"master") => Ok(()),
            Some(b"slave") => Err(self.not_primary("replica")),
            Some(other) => Err(self.not_primary(&String::from_utf8_lossy(other))),
            None => Err(Trouble::NotRedis { address: self.address.clone() }),
        }
    }

    fn trouble(&self, error: &RedisError) -> Trouble {
        let address = self.address.clone();
        match error.code() {
            Some("WRONGPASS") => return Trouble::WrongPassword { address },
            Some("NOAUTH") => return Trouble::NoPassword { address },
            Some("NOPERM") => return Trouble::Forbidden { address, detail: self.shown(error) },
            Some("LOADING") => return Trouble::Loading { address },
            Some("READONLY" | "MASTERDOWN") => return self.not_primary("replica"),
            Some(_) => return Trouble::Refused { address, detail: self.shown(error) },
            None => (),
        }
        match error.kind() {
            ErrorKind::RESP3NotSupported => Trouble::TooOld { address },
            ErrorKind::AuthenticationFailed => Trouble::WrongPassword { address },
            ErrorKind::Io if error.is_timeout() => self.silent(RESPONSE),
            ErrorKind::Io => Trouble::Unreachable { address, cause: error.to_string() },
            ErrorKind::Parse => Trouble::NotRedis { address },
            _ => Trouble::Refused { address, detail: error.category().to_owned() },
        }
    }

    /// What the server said, unless it repeats a secret: an old one quotes a command that it does not know.
    fn shown(&self, error: &RedisError) -> String {
        let code = error.code().unwrap_or("ERR");
        match error.detail() {
            Some(detail) if !self.secrets.iter().any(|secret| detail.contains(secret)) => {
                let clean: String = detail.chars().filter(|one| !one.is_control()).take(200).collect();
                format!("{code} {clean}")
            }
            _ => code.to_owned(),
        }
    }

    fn silent(&self, within: Duration) -> Trouble {
        Trouble::Silent { address: self.address.clone(), within }
    }

    fn not_primary(&self, role: &str) -> Trouble {
        Trouble::NotPrimary { address: self.address.clone(), role: role.to_owned() }
    }
}

/// The first word of what `ROLE` answers.
fn role_in(answer: Option<&Value>) -> Option<&[u8]> {
    match answer {
        Some(Value::Array(parts)) => match parts.first() {
            Some(Value::BulkString(role)) => Some(role),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, Trouble> {
        Target::parse(url, "ADDRESS".to_owned())
    }

    #[test]
    fn urls_that_cannot_work_are_refused_in_a_sentence_without_the_url() {
        for url in ["", "127.0.0.1:6379", "http://h:1/", "redis://:secret@h:x/", "rediss://:secret@h:1/"] {
            let sentence = parse(url).err().expect(url).sentence();
            assert!(sentence.starts_with("`[redis] url`") && !sentence.contains("secret"), "{sentence}");
        }
        for url in ["redis://h:1/", "redis://user:secret@h:1/3", "redis+unix:///run/redis.sock", "valkey://h:1"] {
            assert!(parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_server_that_repeats_the_password_is_not_quoted() {
        let explain = parse("redis://:secret@h:1/").expect("a URL").explain();
        let said = |text: &str| {
            let error = RedisError::from((ErrorKind::Extension, "said", text.to_owned()));
            explain.shown(&error)
        };
        assert_eq!(said("unknown command 'HELLO', with args: '3' 'AUTH' 'default' 'secret'"), "ERR");
        assert_eq!(said("max number of clients reached"), "ERR max number of clients reached");
    }
}
