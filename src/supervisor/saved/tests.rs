//! What is written down, damaged in every way, and what is made of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::files::{self, Unusable};
use super::*;
use crate::config::testing;

fn document(names: &[&str]) -> Document {
    let app = |name: &&str| SavedApp {
        spec: testing::spec(name),
        instances: vec![SavedInstance { number: 3, index: 0, running: true, ended: None }],
        waiting: false,
    };
    Document {
        herdwire: "0.1.0".into(),
        written_at_ms: 5,
        boot: "boot".into(),
        home: "/home".into(),
        node: "1".into(),
        end: End::None,
        settings: Kept::default(),
        apps: names.iter().map(app).collect(),
    }
}

fn any_document() -> impl Strategy<Value = Document> {
    let instance = any::<(u32, u32, bool, Option<i32>)>().prop_map(|(number, index, running, ended)| SavedInstance {
        number,
        index,
        running,
        ended,
    });
    let app = (testing::any_spec(), proptest::collection::vec(instance, 0..3), any::<bool>())
        .prop_map(|(spec, instances, waiting)| SavedApp { spec, instances, waiting });
    let end = prop_oneof![Just(End::None), Just(End::Begun), Just(End::Done)];
    (proptest::collection::vec(app, 0..3), end, any::<u64>()).prop_map(|(apps, end, written_at_ms)| Document {
        apps,
        end,
        written_at_ms,
        ..document(&[])
    })
}

/// A folder with a home's files of documents.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("saved")
    }

    /// Two documents, the newer one with app `b`.
    fn with_two() -> Place {
        let place = Place::new();
        files::write(&place.path(), &document(&["a"])).unwrap();
        files::write(&place.path(), &document(&["b"])).unwrap();
        place
    }

    /// The app of the document that is read, and why others were not.
    fn read(&self) -> (Option<String>, Vec<String>) {
        let found = files::read(&self.path());
        let refused = found.refused.iter().map(|(_, why)| why.to_string()).collect();
        (found.document.map(|document| document.apps[0].spec.name.clone()), refused)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_setting_comes_back(document in any_document()) {
        let text = document.to_text().unwrap();
        prop_assert_eq!(Document::from_text(&text).unwrap(), document);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let crc = crc32fast::hash(&bytes);
        let mut text = format!("herdwire-saved 1 bytes={} crc32={crc:08x}\n", bytes.len()).into_bytes();
        text.extend(&bytes);
        // Whatever it says of them.
        let _ = Document::from_text(if header { &text } else { &bytes });
    }
}

#[test]
fn cut_off_anywhere_it_is_refused() {
    let text = document(&["a"]).to_text().unwrap();
    for length in 0..text.len() {
        assert!(Document::from_text(&text[..length]).is_err(), "{length}");
    }
    assert_eq!(Document::from_text(b""), Err(BadText::Empty));
}

#[test]
fn with_any_bit_flipped_it_is_refused() {
    let mut text = document(&["a"]).to_text().unwrap();
    for at in 0..text.len() * 8 {
        text[at / 8] ^= 1 << (at % 8);
        // A hexadecimal digit may be written large: the same number, and nothing is lost.
        let read = Document::from_text(&text);
        let same_number = text[at / 8].is_ascii_hexdigit() && at % 8 == 5;
        assert!(read.is_err() || same_number && read.as_ref() == Ok(&document(&["a"])), "bit {at}");
        text[at / 8] ^= 1 << (at % 8);
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let text = String::from_utf8(document(&["a"]).to_text().unwrap()).unwrap().replacen(" 1 ", " 2 ", 1);
    let error = Document::from_text(text.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "it is of version 2, this release reads version 1");
}

#[test]
fn what_a_later_release_adds_is_skipped_and_what_an_earlier_one_lacks_has_a_default() {
    let mut json = serde_json::to_value(document(&["a"])).unwrap();
    json["of_the_future"] = 1.into();
    let spec = &mut json["apps"][0]["spec"];
    spec["of_the_future"] = 1.into();
    spec["rules"]["of_the_future"] = 1.into();
    for lacking in ["rules", "bounds", "logs", "health", "triggers", "depends_on", "reload", "env_files", "autostart"] {
        spec.as_object_mut().unwrap().remove(lacking);
    }
    json.as_object_mut().unwrap().remove("settings");
    let body = serde_json::to_vec(&json).unwrap();
    let mut text = format!("herdwire-saved 1 bytes={} crc32={:08x}\n", body.len(), crc32fast::hash(&body)).into_bytes();
    text.extend(body);
    assert_eq!(Document::from_text(&text).unwrap(), document(&["a"]));
}

#[test]
fn a_text_that_cannot_be_understood_is_not_quoted() {
    let body = br#"{"apps": [{"spec": {"name": {"SECRET": "hunter2"}}}]}"#;
    let mut text = format!("herdwire-saved 1 bytes={} crc32={:08x}\n", body.len(), crc32fast::hash(body)).into_bytes();
    text.extend(body);
    let error = Document::from_text(&text).unwrap_err().to_string();
    assert!(error.starts_with("it cannot be understood: a value of the wrong kind at line 2"), "{error}");
    assert!(!error.contains("hunter2"));
}

#[test]
fn three_generations_are_kept_for_their_owner_alone() {
    let place = Place::new();
    for name in ["a", "b", "c", "d"] {
        files::write(&place.path(), &document(&[name])).unwrap();
    }
    let at = |generation| {
        let text = fs::read(files::name(&place.path(), generation)).unwrap();
        Document::from_text(&text).unwrap().apps[0].spec.name.clone()
    };
    assert_eq!([at(0), at(1), at(2)], ["d", "c", "b"]);
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 3);
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_another_supervisor_still_writes_is_waited_for() {
    let place = Place::with_two();
    let before = place.read();
    let aside = place.path().with_extension("new");
    fs::write(&aside, "half").unwrap();
    let its = fs::File::open(&aside).unwrap();
    its.lock().unwrap();
    let refused = files::write(&place.path(), &document(&["c"])).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!((place.read(), fs::read_to_string(&aside).unwrap().as_str()), (before, "half"));
    // Dead, or done.
    drop(its);
    files::write(&place.path(), &document(&["c"])).unwrap();
    assert!(!aside.exists());
}

#[test]
fn the_newest_whole_one_is_read() {
    let place = Place::with_two();
    assert_eq!(place.read(), (Some("b".into()), vec![]));
    let whole = fs::read(place.path()).unwrap();
    for (damaged, why) in [
        (&b""[..], "it is empty"),
        (&whole[..whole.len() - 1], "it is not whole: "),
        (b"nonsense\n", "it does not begin with a line of `herdwire-saved`"),
    ] {
        fs::write(place.path(), damaged).unwrap();
        let (name, refused) = place.read();
        assert_eq!((name.as_deref(), refused.len()), (Some("a"), 1));
        assert!(refused[0].starts_with(why), "{refused:?}");
    }
    fs::remove_file(place.path()).unwrap();
    assert_eq!(place.read(), (Some("a".into()), vec![]));
    fs::write(files::name(&place.path(), 1), "").unwrap();
    assert_eq!(place.read(), (None, vec!["it is empty".into()]));
}

#[test]
fn what_is_no_file_of_ours_is_not_read() {
    let place = Place::with_two();
    let elsewhere = place.folder.path().join("elsewhere");
    fs::rename(place.path(), &elsewhere).unwrap();
    symlink(&elsewhere, place.path()).unwrap();
    assert_eq!(place.read(), (Some("a".into()), vec!["it is not a plain file".into()]));
    fs::remove_file(place.path()).unwrap();
    nix::unistd::mkfifo(&place.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(place.read(), (Some("a".into()), vec!["it is not a plain file".into()]));
    fs::remove_file(place.path()).unwrap();
    fs::rename(&elsewhere, place.path()).unwrap();
    // Only root can give a file away.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(place.path(), Some(1234), None).unwrap();
        assert_eq!(place.read(), (Some("a".into()), vec!["it belongs to user 1234".into()]));
        assert!(matches!(files::read(&place.path()).refused[0].1, Unusable::Foreign(1234)));
    }
}

#[test]
fn a_file_that_cannot_be_used_is_put_aside_and_kept() {
    let place = Place::with_two();
    fs::write(place.path(), "precious").unwrap();
    let aside = files::put_aside(&place.path()).unwrap();
    files::write(&place.path(), &document(&["c"])).unwrap();
    assert_eq!(fs::read_to_string(aside).unwrap(), "precious");
    assert_eq!(place.read(), (Some("c".into()), vec![]));
}

#[test]
fn each_file_that_cannot_be_used_is_kept_under_a_name_of_its_own() {
    let place = Place::new();
    let mut names = Vec::new();
    for round in ["first", "second"] {
        for generation in 0..files::GENERATIONS {
            let path = files::name(&place.path(), generation);
            fs::write(&path, format!("{round} {generation}")).unwrap();
            names.push((files::put_aside(&path).unwrap(), format!("{round} {generation}")));
        }
    }
    assert!(names.iter().all(|(path, text)| fs::read_to_string(path).unwrap() == *text), "{names:?}");
    assert!(names[4].0.ends_with("saved.1.broken.2"), "{names:?}");
}

#[test]
fn which_of_them_is_used_is_told() {
    let place = Place::with_two();
    fs::write(place.path(), "").unwrap();
    assert_eq!(files::read(&place.path()).used, Some(files::name(&place.path(), 1)));
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let place = Place::with_two();
    // In the way of the file that is written aside: it can be neither removed nor made.
    fs::create_dir_all(place.folder.path().join("saved.new/in-the-way")).unwrap();
    assert!(files::write(&place.path(), &document(&["c"])).is_err());
    assert_eq!(place.read(), (Some("b".into()), vec![]));
    assert!(files::name(&place.path(), 1).exists() && !files::name(&place.path(), 2).exists());
}

#[test]
fn what_is_done_depends_on_how_and_where_it_ended() {
    let here = Here { boot: "boot".into(), home: "/home".into(), node: "1".into() };
    let of = |end| Document { end, ..document(&["a"]) };
    assert_eq!(of(End::None).aftermath(&here), Aftermath::Restore);
    assert_eq!(of(End::Begun).aftermath(&here), Aftermath::Clear);
    assert_eq!(of(End::Done).aftermath(&here), Aftermath::Waits);
    for other in [
        Here { boot: "later".into(), ..here.clone() },
        Here { home: "/copy".into(), ..here.clone() },
        Here { node: "2".into(), ..here.clone() },
    ] {
        for end in [End::None, End::Begun, End::Done] {
            assert_eq!(of(end).aftermath(&other), Aftermath::Waits, "{other:?}");
        }
    }
}
