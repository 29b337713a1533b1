//! Where our own control group lies in the file system: pure, from the tables of /proc.

use std::path::{Path, PathBuf};

/// Our group's folder on the unified hierarchy, from `/proc/self/mountinfo` and `/proc/self/cgroup`. `None` where there is no
/// such hierarchy, or our group is not below what is mounted of it.
pub fn own_group(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Outside of our namespace, or removed under us.
    if !own.starts_with('/') || own.split('/').any(|part| part == "..") || own.ends_with(" (deleted)") {
        return None;
    }
    mountinfo.lines().filter_map(unified).find_map(|(root, mount)| {
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(if below.as_os_str().is_empty() { mount.to_owned() } else { mount.join(below) })
    })
}

/// Root and place of a mount of the unified hierarchy.
fn unified(line: &str) -> Option<(&Path, &Path)> {
    let (mount, file_system) = line.split_once(" - ")?;
    if file_system.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    // Escaped: a name that nobody gives to such a place.
    (!root.contains('\\') && !place.contains('\\')).then_some((Path::new(root), Path::new(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 22 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
        32 31 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn found(mountinfo: &str, cgroup: &str) -> Option<String> {
        own_group(mountinfo, cgroup).map(|path| path.display().to_string())
    }

    #[test]
    fn it_lies_below_the_mount() {
        assert_eq!(found(PURE, "0::/\n").unwrap(), "/sys/fs/cgroup");
        assert_eq!(found(PURE, "0::/system.slice/a.service\n").unwrap(), "/sys/fs/cgroup/system.slice/a.service");
        assert_eq!(found(HYBRID, "4:memory:/x\n0::/y\n").unwrap(), "/sys/fs/cgroup/unified/y");
    }

    #[test]
    fn of_a_mounted_part_only_what_is_below_it_is_reached() {
        let part = PURE.replacen(" / ", " /box ", 1);
        assert_eq!(found(&part, "0::/box/a\n").unwrap(), "/sys/fs/cgroup/a");
        assert_eq!(found(&part, "0::/other\n"), None);
    }

    #[test]
    fn without_it_there_is_none() {
        assert_eq!(found("", "0::/\n"), None);
        assert_eq!(found(HYBRID, "4:memory:/x\n"), None);
        assert_eq!(found(PURE, "0::/../up\n"), None);
        assert_eq!(found(PURE, "0::/gone (deleted)\n"), None);
    }
}
