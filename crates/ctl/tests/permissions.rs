//! The policy that `efs-autoscale permissions` prints has the calls of the commands that only read, and no other.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{collections::BTreeSet, fs, path::Path};

use ctl::operator::permissions::READS;

/// `describe_mount_targets` is `DescribeMountTargets`.
fn camel_case(call: &str) -> String {
    call.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// Calls of the SDKs in a source: `.describe_stacks()`.
fn calls(source: &str) -> BTreeSet<String> {
    const VERBS: [&str; 5] = ["describe_", "get_", "list_", "simulate_", "detect_"];
    let parts = source.split('.').filter_map(|part| part.split_once("()")).map(|(name, _)| name.trim());
    let is_call = |name: &&str| {
        VERBS.iter().any(|verb| name.starts_with(verb))
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    parts.filter(is_call).map(camel_case).collect()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, text),
            false => text.push_str(&fs::read_to_string(path).unwrap()),
        }
    }
}

#[test]
fn the_policy_has_the_calls_of_the_commands_that_read() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(&here.join("src/operator"), &mut text);
    let mut called = calls(&text);
    let stack = fs::read_to_string(here.join("src/stack.rs")).unwrap();
    assert!(stack.contains(".describe_stacks()"));
    called.insert("DescribeStacks".to_owned());
    // What `evaluate::observe` calls by the adapters: the policy of that function.
    for port in ["efs", "ec2", "ecs", "ssm"] {
        called.extend(calls(&fs::read_to_string(here.join(format!("../aws/src/{port}.rs"))).unwrap()));
    }
    let allowed: BTreeSet<_> = READS.iter().map(|action| action.split_once(':').unwrap().1.to_owned()).collect();
    // The ACM's and the ELB's names are the same in SDK and IAM; Lambda's tags are read by `ListTags`.
    let missing: Vec<_> = called.difference(&allowed).collect();
    assert!(missing.is_empty(), "called, and not allowed: {missing:?}");
    // CloudFormation calls this for the detection of drift.
    let implied = ["DetectStackResourceDrift"];
    let surplus: Vec<_> = allowed.difference(&called).filter(|name| !implied.contains(&name.as_str())).collect();
    assert!(surplus.is_empty(), "allowed, and not called: {surplus:?}");
}
