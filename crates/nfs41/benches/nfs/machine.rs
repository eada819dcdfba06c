//! What the numbers depend on.

use std::{fs, process::Command};

use anyhow::Result;

/// Processor, kernel and the server's version, in a few lines.
pub fn facts() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let processors = std::thread::available_parallelism()?;
    let uname = rustix::system::uname();
    let ganesha = Command::new("ganesha.nfsd").arg("-v").output()?;
    let ganesha = [ganesha.stdout, ganesha.stderr].concat();
    let ganesha = String::from_utf8_lossy(&ganesha);
    let ganesha = ganesha.split_once("V").map_or("of an unknown version", |(_, version)| version).split_whitespace();
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{}, {processors} processors, Linux {} on {};\nNFS-Ganesha {} on tmpfs, nfs-rs 0.11.1, libnfs 4.0.0; a load of \
         {} when it began.",
        model.map_or("a processor without a name", |(_, model)| model),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        ganesha.take(1).collect::<String>(),
        load.split(' ').next().unwrap_or_default(),
    ))
}
