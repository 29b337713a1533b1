//! Writes the first inputs of every target: `seeds FOLDER` makes FOLDER/TARGET/NAME, from what the encoders make.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use herdwire::keeper::name::{Kind, Name};
use herdwire::keeper::protocol::{Message, PROTOCOL_VERSION, verb};
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
    let about = |verb| Message { name, ..Message::new([verb]) }.to_record(&[]);
    let records = [
        about(verb::STORE),
        about(verb::DROP),
        Message::new([verb::ACKNOWLEDGE, 7]).to_record(&[]),
        Message::new([verb::GOODBYE, u64::MAX]).to_record(&[]),
        Message::new([verb::SUCCEED, 4711]).to_record(&[]),
        Message::new([verb::HELLO, PROTOCOL_VERSION, 3, 1, 1, 5, 1024, 900, 7, 15_000_000]).to_record(&[]),
        Message::new([verb::DESCRIPTORS]).to_record(&[name, name]),
        Message::new([verb::EXIT, 7, 4711, 99, 9]).to_record(&[]),
        about(verb::REFUSED),
        Message { name, ..Message::new([verb::LEFT, 12]) }.to_record(&[]),
        Message::new([verb::SERVING, 3, 4, 1]).to_record(&[]),
    ];
    let mut all = Vec::new();
    for (number, record) in records.iter().enumerate() {
        seed(folder, &format!("record-{number}"), record);
        all.extend_from_slice(record);
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
