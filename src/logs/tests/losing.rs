//! A file that takes nothing for too long: nobody waits for ever, and what is missing is counted to the line.

use super::*;

/// Not a test by itself: runs in a mount namespace of its own, with a small file system at `SMALL`.
#[test]
#[ignore = "run by the test below"]
fn in_a_full_file_system() {
    let small = PathBuf::from(std::env::var_os("SMALL").expect("run by the test below"));
    let pump = Pump::with_patience(Duration::from_millis(200)).unwrap();
    let mut bench = Bench { events: pump.events().unwrap(), pump, folder: tempfile::tempdir().unwrap() };
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![0; 2_900_000]).unwrap();
    let (read, write) = pipe();
    let path = small.join("out.log");
    bench.pump.attach(key(1), read, raw(&path));
    let mut keep = write.try_clone().unwrap();
    let mut child = counting(2_000_000, write);
    assert!(matches!(bench.event(), Event::Trouble { error, .. } if error.raw_os_error() == Some(libc::ENOSPC)));
    // It does not wait for the disk.
    assert!(child.wait().unwrap().success());
    let size = fs::metadata(&path).unwrap().len();
    fs::remove_file(&ballast).unwrap();
    keep.write_all(b"after\n").unwrap();
    let lost = match bench.event() {
        Event::Lost { stream, lost, .. } if stream == key(1) => lost,
        other => panic!("nothing lost but {other:?}"),
    };
    assert!(matches!(bench.event(), Event::Recovered(_)));
    drop(keep);
    bench.closed();
    let text = content(&path);
    let (before, after) = text.split_at(size as usize);
    let words = format!("-- herdwire: {} lines ({} bytes) are missing here: ", lost.lines, lost.bytes);
    assert!(after.trim_start_matches('\n').starts_with(&words), "{after:?}");
    let said = after.find(&words).unwrap();
    let rest = after[said..].split_once('\n').unwrap().1;
    // Whatever was printed is in the file or counted.
    assert_eq!(before.len() as u64 + lost.bytes + rest.len() as u64, 14_888_896 + 6);
    let begun = u64::from(!before.ends_with('\n'));
    let lines = before.matches('\n').count() as u64 + begun + rest.lines().count() as u64;
    assert!(lines + lost.lines == 2_000_001 + begun, "{lines} are there, {} lost", lost.lines);
    println!("counted");
}

#[test]
fn a_disk_that_stays_full_stops_no_instance_and_what_is_lost_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=3m small \"$SMALL\" || exit 77; exec \"$@\"";
    let done = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "logs::tests::losing::in_a_full_file_system", "--ignored", "--nocapture"])
        .env("SMALL", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    if done.status.code() == Some(77) || !done.status.success() && text.is_empty() {
        eprintln!("not run: no mount here");
        return;
    }
    assert!(done.status.success() && text.contains("counted"), "{text}{}", String::from_utf8_lossy(&done.stderr));
}
