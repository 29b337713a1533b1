//! Writes the first inputs of every target: `seeds FOLDER` makes FOLDER/TARGET/NAME, from what the encoders make.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herdwire::keeper::name::{Kind, Name};
use herdwire::keeper::protocol::{
    Exit, ExitStatus, FromKeeper, Hello, Legacy, Reason, ToKeeper, UpgradeFailure, UpgradeStage,
};
use herdwire::supervisor::control::{self, Request, Selector};
use herdwire::supervisor::state::{AppRecord, Globals, InstanceRecord, State};
use herdwire_fuzz::{memory, seed};
// Only linked: what is instrumented calls it.
use libfuzzer_sys as _;

fn main() {
    let corpus = PathBuf::from(std::env::args_os().nth(1).expect("usage: seeds FOLDER"));
    keeper(&corpus.join("keeper"));
    control_socket(&corpus.join("control"));
    state(&corpus.join("state"));
    pipe(&corpus.join("pipe"));
}

fn pipe(folder: &Path) {
    let frames = [
        r#"{"op":"hello","protocol":1}"#,
        r#"{"op":"subscribe","channel":"orders","id":1}"#,
        r#"{"op":"publish","channel":"orders","value":{"a":[1,2.5e3,null,"\u00e4\n"]},"id":"x"}"#,
        r#"{"op":"publish","channel":"orders","text":"t","to":3}"#,
        r#"{"op":"publish","channel":"orders","base64":"AAEC","tag":"msgpack","session":"000000000000000000000000000000ff"}"#,
        r#"{"op":"peers","id":2}"#,
    ];
    for (number, frame) in frames.iter().enumerate() {
        seed(folder, &format!("frame-{number}"), frame.as_bytes());
    }
    seed(folder, "all", frames.join("\n").as_bytes());
}

fn keeper(folder: &Path) {
    let name = Name::part(Kind::Listener, 3, 2, 1).to_bytes();
    let exit = Exit {
        sequence: 7,
        pid: 4711,
        pidfd_inode: 99,
        status: ExitStatus::Signal(9),
        user_time: Duration::from_millis(3),
        system_time: Duration::ZERO,
    };
    let hello = Hello {
        protocol: 1,
        reason: Reason::Upgrade,
        foreground: true,
        keeper_pid: 1,
        epoch: 5,
        descriptor_limit: 1024,
        store_limit: 900,
    };
    let failure = UpgradeFailure { stage: UpgradeStage::Freeze, status: Some(ExitStatus::Code(78)) };
    let records = [
        ToKeeper::Store(name).to_record(),
        ToKeeper::Drop(name).to_record(),
        ToKeeper::Acknowledge(7).to_record(),
        ToKeeper::Goodbye(-1).to_record(),
        ToKeeper::Upgrade.to_record(),
        FromKeeper::Hello(hello).to_record(),
        FromKeeper::Descriptors(&[name, name]).to_record(),
        FromKeeper::Exit(exit).to_record(),
        FromKeeper::Refused(name).to_record(),
        FromKeeper::UpgradeFailed(failure).to_record(),
        Legacy::Keeper(hello, 5).to_record(),
        Legacy::Stored(name, 12).to_record(),
        Legacy::Exit(exit).to_record(),
        Legacy::Supervisor(3, 4, true).to_record(),
    ];
    let mut all = Vec::new();
    for (number, record) in records.iter().enumerate() {
        seed(folder, &format!("record-{number}"), record.as_bytes());
        all.extend_from_slice(record.as_bytes());
    }
    seed(folder, "all", &all);
    seed(folder, "name", &name);
}

fn control_socket(folder: &Path) {
    let select = || Selector::All;
    let requests = [
        Request::Ping,
        Request::Snapshot { env: true },
        Request::Stop { select: select() },
        Request::Upgrade { binary: "/usr/bin/herdwire".into() },
        Request::Reload { select: select(), apps: Vec::new(), options: Default::default() },
        Request::Start { apps: Vec::new(), settings: Default::default(), origin: "/home/herdwire.toml".into() },
        Request::Events { after: Some(17) },
    ];
    for (number, request) in requests.iter().enumerate() {
        seed(folder, &format!("request-{number}"), &control::to_frame(request).expect("it is small"));
    }
}

fn state(folder: &Path) {
    let mut state = State::create().expect("a memfd can be made");
    let begin = |state: &State| {
        let file = memory(state);
        let mut bytes = vec![0; file.metadata().expect("it is a file").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("it is as long as it says");
        bytes
    };
    seed(folder, "empty", &begin(&state));
    state.commit_globals(&Globals::default()).expect("there is memory");
    state.commit_app(&AppRecord::new(1, 2)).expect("there is memory");
    for id in 0..3 {
        let instance = InstanceRecord { id, app: 1, index: id, pid: 100 + id, ..InstanceRecord::default() };
        state.commit_instance(&instance).expect("there is memory");
    }
    seed(folder, "some", &begin(&state));
}
