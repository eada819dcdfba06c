//! What the numbers depend on.

use std::{fs, process::Command, time::Duration};

use anyhow::Result;

/// Processor, kernel, and versions of the server and the other clients, in a few lines.
pub fn facts() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let processors = std::thread::available_parallelism()?;
    let uname = rustix::system::uname();
    let ganesha = said("ganesha.nfsd", &["-v"]);
    let ganesha = ganesha.split_once("V").map_or("", |(_, version)| version).split_whitespace().next();
    let libnfs = said("pkg-config", &["--modversion", "libnfs"]);
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    Ok(format!(
        "{}, {processors} processors, Linux {} on {}, TCP with {};\nNFS-Ganesha {} on tmpfs, nfs-rs 0.11.1, libnfs {}.",
        model.map_or("a processor without a name", |(_, model)| model),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        congestion.trim(),
        ganesha.unwrap_or("of an unknown version"),
        if libnfs.is_empty() { "of an unknown version" } else { libnfs.trim() },
    ))
}

/// Load average. With more load than a benchmark of two processes causes, the numbers are of little use.
pub fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

/// CPU time of a process.
pub fn processor(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    // USER_HZ is 100 on all Linux systems.
    Ok(Duration::from_millis(ticks.flat_map(str::parse::<u64>).sum::<u64>() * 10))
}

/// Output of a program, if it exists.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
