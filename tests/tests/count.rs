//! What the function `count` does around the walk: its input, its budget, and what it remembers.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use count::{Config, Memory, handle};
use domain::{
    config::Variables,
    error::{Code, Coded, CountError},
    ledger,
    messages::{CountInput, CountOutput, MAX_PARTITION_BYTES, MAX_PARTITIONS},
    model::ParameterName,
    ports::Clock,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::fake::{FILE_SYSTEM, Fake, Fault};

fn directory(files: usize) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for number in 0..files {
        let folder = root.path().join(format!("{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number}")), "").unwrap();
    }
    root
}

fn config(root: &Path, more: &[(&'static str, &str)]) -> Config {
    let variables = |name: &str| match name {
        "EFS_FILE_SYSTEM_ID" => Some(FILE_SYSTEM.to_owned()),
        "TARGET_DIRECTORY" => Some(root.to_str().unwrap().to_owned()),
        _ => more.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
    };
    assert!(variables.get("EFS_FILE_SYSTEM_ID").is_some());
    Config::read(&variables).unwrap()
}

fn input(fields: Value) -> CountInput {
    serde_json::from_value(fields).unwrap()
}

fn call(fake: &Fake, config: &Config, memory: &Memory, fields: Value) -> Result<CountOutput, CountError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let deadline = SystemTime::now() + Duration::from_secs(60);
    runtime.block_on(handle(Some(fake), config, memory, input(fields), deadline))
}

#[test]
fn the_input_is_checked_before_anything_is_touched() {
    let config = config(Path::new("/nowhere"), &[]);
    let code = |fields| call(&Fake::new(1, 1), &config, &Memory::default(), fields).unwrap_err().code();
    assert_eq!(code(json!({"start": {"treshold": 1}})), Code::InvalidInput);
    assert_eq!(code(json!({"partition": {"places": [{"path": "Li4="}]}})), Code::InvalidInput, "..");
    assert_eq!(code(json!({"partition": 7})), Code::InvalidInput);
    assert_eq!(code(json!({})), Code::TargetDirectoryUnreadable);
}

/// As the machine does it: a first invocation, and rounds of what is left.
#[test]
fn a_budget_splits_the_count_and_the_parts_are_the_whole() {
    let root = directory(3000);
    let config = config(root.path(), &[("COUNT_BUDGET_SECONDS", "0.000001")]);
    let (fake, memory) = (Fake::new(1, 1), Memory::default());
    let first = call(&fake, &config, &memory, json!({})).unwrap();
    assert!(!first.complete && !first.missed && !first.rest.is_empty());
    let (mut files, mut rest, mut rounds) = (first.files, first.rest, 0);
    while !rest.is_empty() {
        assert!(rest.len() <= MAX_PARTITIONS && serde_json::to_string(&rest).unwrap().len() <= MAX_PARTITION_BYTES);
        let counted = rest.iter().map(|partition| {
            let fields = json!({"partition": partition, "partitions": rest.len()});
            call(&fake, &config, &memory, fields).unwrap()
        });
        let counted: Vec<_> = counted.collect();
        assert!(counted.iter().all(|part| !part.missed));
        files += counted.iter().map(|part| part.files).sum::<u64>();
        rest = counted.into_iter().flat_map(|part| part.rest).collect();
        rounds += 1;
        assert!(rounds < 100);
    }
    assert_eq!(files, 3000);
}

#[test]
fn a_young_count_is_used_again_and_an_old_one_is_not() {
    let root = directory(10);
    let config = config(root.path(), &[("COUNT_CACHE_SECONDS", "100"), ("COUNT_BUDGET_SECONDS", "60")]);
    let (fake, memory) = (Fake::new(1, 1), Memory::default());
    let name = ledger::counted_name(&ParameterName::new(domain::config::DEFAULT_PARAMETER_NAME));
    let first = call(&fake, &config, &memory, json!({})).unwrap();
    assert_eq!((first.files, first.age_seconds), (10, None));
    fs::write(root.path().join("one more"), "").unwrap();
    let again = call(&fake, &config, &memory, json!({})).unwrap();
    assert_eq!((again.files, again.complete), (10, true));
    assert!(again.age_seconds.is_some());

    let mut fact: ledger::Counted = ledger::read(&fake.state.borrow().parameters[&name].value).unwrap();
    let mut keep = |change: &dyn Fn(&mut ledger::Counted)| {
        change(&mut fact);
        fake.state.borrow_mut().parameters.get_mut(&name).unwrap().value = ledger::write(&fact);
        let counted = call(&fake, &config, &memory, json!({})).unwrap();
        fact = ledger::read(&fake.state.borrow().parameters[&name].value).unwrap();
        (counted.files, counted.age_seconds.is_some())
    };
    assert_eq!(keep(&|fact| fact.files = 99), (99, true));
    fake.pass(100);
    assert_eq!(keep(&|_| {}), (11, false), "too old");
    let later = fake.now() + 1000;
    assert_eq!(keep(&|fact| fact.counted_at = later), (11, false), "of the future");
    assert_eq!(keep(&|fact| fact.directory = "/elsewhere".to_owned()), (11, false));
    fake.state.borrow_mut().parameters.get_mut(&name).unwrap().value = "damaged".to_owned();
    assert_eq!(call(&fake, &config, &memory, json!({})).unwrap().age_seconds, None);
}

/// Systems Manager out of order is no reason not to count; a count in part is not kept.
#[test]
fn only_a_whole_count_is_kept() {
    let root = directory(3000);
    let tiny = config(root.path(), &[("COUNT_CACHE_SECONDS", "100"), ("COUNT_BUDGET_SECONDS", "0.000001")]);
    let (fake, memory) = (Fake::new(1, 1), Memory::default());
    assert!(!call(&fake, &tiny, &memory, json!({})).unwrap().complete);
    assert!(fake.state.borrow().parameters.is_empty());
    let whole = config(root.path(), &[("COUNT_CACHE_SECONDS", "100")]);
    for call_number in 0..20 {
        fake.faults.borrow_mut().insert(call_number, Fault::Refused);
    }
    assert_eq!(call(&fake, &whole, &memory, json!({})).unwrap().files, 3000);
    assert!(fake.state.borrow().parameters.is_empty());
}

#[test]
fn a_warm_process_reads_only_what_has_changed_until_it_is_time_for_all() {
    let root = directory(20);
    let config = config(root.path(), &[("COUNT_FULL_EVERY", "3")]);
    let (fake, memory) = (Fake::new(1, 1), Memory::default());
    // Times within two seconds are not trusted.
    std::thread::sleep(Duration::from_millis(2100));
    let unchanged: Vec<u64> =
        (0..7).map(|_| call(&fake, &config, &memory, json!({})).unwrap()).map(|counted| counted.unchanged).collect();
    assert_eq!(unchanged, [0, 8, 8, 0, 8, 8, 0]);
    fs::write(root.path().join("3/new"), "").unwrap();
    let counted = call(&fake, &config, &memory, json!({})).unwrap();
    assert_eq!((counted.files, counted.unchanged), (21, 7));
}

/// The same function without a mount: whole, in parts, and by what it remembers.
#[test]
fn a_directory_is_counted_without_a_mount() {
    let Some(mut server) = nfs_lab::lab_or_skip(nfs_lab::Options { cached: false, ..Default::default() }) else {
        return;
    };
    let root = server.directory().join("data");
    for number in 0..3000 {
        let folder = root.join(format!("{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number}")), "").unwrap();
    }
    let port = server.port().to_string();
    let via = [("COUNT_VIA", "nfs"), ("NFS_HOST", "127.0.0.1"), ("NFS_PORT", &port), ("NFS_ROOT", "/data")];
    let nowhere = Path::new("/nowhere");
    let (fake, memory) = (Fake::new(1, 1), Memory::default());
    let whole = call(&fake, &config(nowhere, &via), &memory, json!({})).unwrap();
    assert_eq!((whole.files, whole.directories, whole.complete), (3000, 8, true));

    let budget = config(nowhere, &[&via[..], &[("COUNT_BUDGET_SECONDS", "0.000001")]].concat());
    let (mut files, mut inputs) = (0, vec![json!({})]);
    while let Some(input) = inputs.pop() {
        let part = call(&fake, &budget, &memory, input).unwrap();
        assert!(!part.missed, "{:?}", part.first_errors);
        files += part.files;
        inputs.extend(part.rest.into_iter().map(|partition| json!({"partition": partition, "partitions": 2})));
    }
    assert_eq!(files, 3000);

    std::thread::sleep(Duration::from_millis(2100));
    let remembers = config(nowhere, &[&via[..], &[("COUNT_FULL_EVERY", "9")]].concat());
    let unchanged = || call(&fake, &remembers, &memory, json!({})).unwrap().unchanged;
    assert_eq!((unchanged(), unchanged()), (0, 8));

    server.kill();
    let err = call(&fake, &config(nowhere, &via), &memory, json!({})).unwrap_err();
    assert_eq!(err.code(), Code::TargetDirectoryUnreadable);
    assert!(err.to_string().starts_with(&format!("nfs://127.0.0.1:{port}/data, which is to be")), "{err}");
}

#[test]
fn what_is_wrong_with_a_server_to_count_is_named() {
    let read = |more: &[(&'static str, &str)]| {
        let variables = |name: &str| match name {
            "EFS_FILE_SYSTEM_ID" => Some(FILE_SYSTEM.to_owned()),
            "COUNT_VIA" => Some("nfs".to_owned()),
            _ => more.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        };
        Config::read(&variables).map(drop).map_err(|err| err.to_string())
    };
    let host = ("NFS_HOST", "10.0.1.23");
    let tls = [host, ("NFS_TLS", "efs"), ("AWS_REGION", "ap-northeast-1")];
    assert_eq!((read(&[host]), read(&tls)), (Ok(()), Ok(())));
    for (more, part) in [
        (&[][..], "NFS_HOST is missing"),
        (&[("NFS_HOST", "a b")], "NFS_HOST is \"a b\""),
        (&[host, ("NFS_PORT", "0")], "NFS_PORT"),
        (&[host, ("NFS_ROOT", "data")], "NFS_ROOT"),
        (&[host, ("NFS_ROOT", "/data/..")], "NFS_ROOT"),
        (&[host, ("NFS_IAM", "1")], "NFS_TLS is not efs"),
        (&[host, ("EFS_ACCESS_POINT_ID", "fsap-0123456789abcdef0")], "with NFS_TLS=efs"),
        (&tls[..2], "AWS_REGION is missing"),
        (&[tls[0], tls[1], tls[2], ("EFS_ACCESS_POINT_ID", "fs-1")], "fsap-0123456789abcdef0"),
    ] {
        let err = read(more).unwrap_err();
        assert!(err.contains(part), "{more:?}: {err}");
    }
}
