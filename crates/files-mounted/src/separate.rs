//! Are the mounts of several targets really several? Linux folds NFSv4.1 mounts of one server into one TCP
//! connection without a word, whatever address each was given; then all traffic takes one target.
//!
//! The proof, of three parts: the address in `/proc/self/mountinfo` is the one asked for, each mount is a device
//! of its own, and each address has a connection to port 2049 (`/proc/net/tcp`, `tcp6`).

use std::{
    ffi::OsString,
    net::IpAddr,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

const NFS_PORT: u16 = 2049;
const ESTABLISHED: &str = "01";

/// Something that shows that a mount is not separate from the others.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SharedMount {
    #[error("{} is not mounted", directory.display())]
    NotMounted { directory: PathBuf },
    #[error("{} was mounted from {asked}, and goes to {found}", directory.display())]
    OtherAddress { directory: PathBuf, asked: IpAddr, found: String },
    #[error("{} and {} are one device", first.display(), second.display())]
    OneDevice { first: PathBuf, second: PathBuf },
    #[error("there are {found} connections to {address}, and one was expected")]
    Connections { address: IpAddr, found: usize },
}

/// One line of mountinfo.
pub(super) struct MountLine {
    pub directory: PathBuf,
    device: String,
    pub is_nfs: bool,
    /// What was asked for.
    pub source: String,
    /// Of NFS: where its requests go.
    pub address: Option<IpAddr>,
}

/// The NFS mounts at these directories, and what shows that they are not separate; nothing when they are.
///
/// # Errors
/// `/proc` cannot be read.
pub fn shared_mounts(expected: &[(PathBuf, IpAddr)]) -> std::io::Result<Vec<SharedMount>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut connections = std::fs::read_to_string("/proc/self/net/tcp")?;
    // Not there where the kernel has no IPv6.
    connections += &std::fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default();
    Ok(evaluate(expected, &mounts, &connections))
}

fn evaluate(expected: &[(PathBuf, IpAddr)], mountinfo: &str, tcp: &str) -> Vec<SharedMount> {
    let mut shared_mounts = Vec::new();
    let mut seen: Vec<(&Path, String)> = Vec::new();
    for (directory, asked) in expected {
        // The last one that was mounted there is the one that is seen.
        let Some(mount) = mounts(mountinfo).rev().find(|mount| mount.directory == *directory) else {
            shared_mounts.push(SharedMount::NotMounted { directory: directory.clone() });
            continue;
        };
        if mount.address != Some(*asked) {
            let found = mount.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
            shared_mounts.push(SharedMount::OtherAddress { directory: directory.clone(), asked: *asked, found });
        }
        if let Some((first, _)) = seen.iter().find(|(_, device)| *device == mount.device) {
            shared_mounts.push(SharedMount::OneDevice { first: first.to_path_buf(), second: directory.clone() });
        }
        seen.push((directory, mount.device));
        let found = established(tcp, *asked);
        if found != 1 {
            shared_mounts.push(SharedMount::Connections { address: *asked, found });
        }
    }
    shared_mounts
}

/// What is mounted, in the order of mounting. The format is in proc_pid_mountinfo(5).
pub(super) fn mounts(mountinfo: &str) -> impl DoubleEndedIterator<Item = MountLine> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let device = fields.nth(2)?.to_owned();
        let directory = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
        let mut fields = after.split(' ');
        let is_nfs = fields.next()?.starts_with("nfs");
        let source = fields.next()?.to_owned();
        let options = fields.next()?;
        let address = options.split(',').find_map(|option| option.strip_prefix("addr=")?.parse().ok());
        Some(MountLine { directory, device, is_nfs, source, address })
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescaped(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| others.get(..3)).flatten();
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &others[3..] } else { others };
    }
    bytes
}

/// The number of connections to the NFS server at this address. `/proc/net/tcp` and `tcp6` write an address as the numbers
/// that each four of its bytes are on this machine.
fn established(tcp: &str, address: IpAddr) -> usize {
    let word = |bytes: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*bytes));
    let address = match address {
        IpAddr::V4(address) => word(&address.octets()),
        IpAddr::V6(address) => address.octets().as_chunks().0.iter().map(word).collect(),
    };
    let remote = format!("{address}:{NFS_PORT:04X}");
    let lines = tcp.lines().map(|line| line.split_whitespace().skip(2));
    lines.filter(|line| line.clone().take(2).eq([remote.as_str(), ESTABLISHED])).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &str = "\
22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw
40 22 0:35 / /mnt/efs-0 rw,relatime shared:9 - nfs4 127.0.0.2:/ rw,vers=4.1,hard,clientaddr=127.0.0.1,addr=127.0.0.2
41 22 0:36 / /mnt/efs-1 rw,relatime - nfs4 127.0.0.3:/ rw,vers=4.1,clientaddr=127.0.0.1,addr=127.0.0.3
42 22 0:37 / /mnt/with\\040space rw - ext4 /dev/vda rw
";
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:03E8 0200007F:0801 01 00000000:00000000 00:00000000 00000000     0        0 1 2
   1: 0100007F:03E9 0300007F:0801 01 00000000:00000000 00:00000000 00000000     0        0 1 2
   2: 0200007F:0801 0100007F:03E8 01 00000000:00000000 00:00000000 00000000     0        0 1 2
   3: 0100007F:03E7 0200007F:0801 06 00000000:00000000 00:00000000 00000000     0        0 1 2
";

    fn expected() -> Vec<(PathBuf, IpAddr)> {
        vec![("/mnt/efs-0".into(), [127, 0, 0, 2].into()), ("/mnt/efs-1".into(), [127, 0, 0, 3].into())]
    }

    #[test]
    fn separate_mounts_pass() {
        assert_eq!(evaluate(&expected(), MOUNTS, TCP), []);
    }

    #[test]
    fn an_address_of_ipv6_is_looked_for_where_linux_has_it() {
        let mounts = "40 22 0:35 / /mnt/efs-0 rw - nfs4 [2001:db8::5]:/ rw,clientaddr=::,addr=2001:db8::5\n";
        // As Linux on a little-endian machine writes it.
        let tcp6 = "   0: 00000000000000000000000001000000:03E8 B80D0120000000000000000005000000:0801 01 0\n";
        let expected: Vec<(PathBuf, IpAddr)> = vec![("/mnt/efs-0".into(), "2001:db8::5".parse().unwrap())];
        if cfg!(target_endian = "little") {
            assert_eq!(evaluate(&expected, mounts, &format!("{TCP}{tcp6}")), []);
        }
        assert_eq!(evaluate(&expected, mounts, TCP).len(), 1);
    }

    #[test]
    fn each_way_of_being_one_is_told() {
        // As Linux shows it: all of the second mount is the first one's, but for the directory.
        let second_is_first = MOUNTS.replace("0:36", "0:35").replace("127.0.0.3", "127.0.0.2");
        let shown: Vec<_> = evaluate(&expected(), &second_is_first, TCP).iter().map(ToString::to_string).collect();
        let both = [
            "/mnt/efs-1 was mounted from 127.0.0.3, and goes to 127.0.0.2",
            "/mnt/efs-0 and /mnt/efs-1 are one device",
        ];
        assert_eq!(shown, both);
        let one_device = MOUNTS.replace("0:36", "0:35");
        let shown: Vec<_> = evaluate(&expected(), &one_device, TCP).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/mnt/efs-0 and /mnt/efs-1 are one device"]);
        let one_address = MOUNTS.replace("addr=127.0.0.3", "addr=127.0.0.2");
        let shown: Vec<_> = evaluate(&expected(), &one_address, TCP).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/mnt/efs-1 was mounted from 127.0.0.3, and goes to 127.0.0.2"]);
        let one_connection = TCP.replace("0300007F", "0200007F");
        let shown: Vec<_> = evaluate(&expected(), MOUNTS, &one_connection).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "there are 2 connections to 127.0.0.2, and one was expected",
                "there are 0 connections to 127.0.0.3, and one was expected"
            ]
        );
        let shown: Vec<_> = evaluate(&expected(), "", TCP).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/mnt/efs-0 is not mounted", "/mnt/efs-1 is not mounted"]);
    }

    proptest! {
        #[test]
        fn whatever_proc_says_is_taken_without_a_panic(mounts in ".*", tcp in ".*", lines in proptest::collection::vec("[ -~]{0,40} - [ -~]{0,40}", 0..4)) {
            evaluate(&expected(), &mounts, &tcp);
            evaluate(&expected(), &lines.join("\n"), &lines.join("\n"));
        }
    }

    #[test]
    fn names_are_unescaped() {
        let found: Vec<_> = mounts(MOUNTS).map(|mount| mount.directory).collect();
        assert_eq!(found[3], PathBuf::from("/mnt/with space"));
        assert_eq!(unescaped("\\"), b"\\");
        assert_eq!(unescaped("a\\01"), b"a\\01");
    }
}
