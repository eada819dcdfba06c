//! Typed configuration from named strings. The caller supplies the strings. Each function reads its variables once, before
//! its first request; an error names the variable.

use std::{fmt, num::NonZero, path::PathBuf, str::FromStr, time::Duration};

use crate::{
    model::{FileSystemId, ParameterName, SecurityGroupId, SubnetId, VpcId},
    policy::Policy,
    rules,
};

/// A source of named strings.
pub trait Variables {
    /// The value; `None` if not set. A value that is not UTF-8 is the empty string.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A missing or bad variable. Ends a function's init.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("{name} is missing: expected {expected}")]
    Missing { name: &'static str, expected: &'static str },
    #[error("{name} is {value:?}: expected {expected}")]
    Bad { name: &'static str, value: String, expected: &'static str },
}

/// The code of a [`ConfigError`].
pub const INVALID_CONFIGURATION: &str = "InvalidConfiguration";

/// Default of `SSM_PARAMETER_NAME`, from the original design.
pub const DEFAULT_PARAMETER_NAME: &str = "/efs-mount-autoscaling/mount-targets";

/// A parameter name has at most 1,011 bytes in 15 levels, and the ledger's names are longer than this one.
const MAX_PARAMETER_NAME: usize = 900;
const MAX_PARAMETER_LEVELS: usize = 13;

/// The names of [`rules::RULES`].
const SCALING_RULE_EXPECTED: &str = "threshold or per-target";

/// `prefix-` and 8 to 40 hexadecimal digits.
fn is_id(value: &str, prefix: &str) -> bool {
    value
        .strip_prefix(prefix)
        .is_some_and(|digits| (8..=40).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Reads a required variable with `read`.
///
/// # Errors
/// [`ConfigError`] names the variable and what was `expected`. An empty value counts as missing.
pub fn required<T>(
    variables: &impl Variables,
    name: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    match variables.get(name).filter(|value| !value.is_empty()) {
        None => Err(ConfigError::Missing { name, expected }),
        Some(value) => read(&value).ok_or(ConfigError::Bad { name, value, expected }),
    }
}

/// Reads an optional variable.
///
/// # Errors
/// As [`required`], except for a missing variable.
pub fn optional<T>(
    variables: &impl Variables,
    name: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    match required(variables, name, expected, read) {
        Err(ConfigError::Missing { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Parses a number of this type.
pub fn number<T: FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

/// Reads a number within bounds.
///
/// # Errors
/// As [`optional`].
pub fn within<T: FromStr + PartialOrd>(
    v: &impl Variables,
    name: &'static str,
    expected: &'static str,
    bounds: std::ops::RangeInclusive<T>,
    default: T,
) -> Result<T, ConfigError> {
    optional(v, name, expected, |value| number(value).filter(|number| bounds.contains(number)))
        .map(|found| found.unwrap_or(default))
}

/// Reads a flag: 1 or true, 0 or false.
///
/// # Errors
/// As [`optional`].
pub fn flag(v: &impl Variables, name: &'static str) -> Result<bool, ConfigError> {
    let read = |value: &str| match value {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    };
    optional(v, name, "1 or 0", read).map(Option::unwrap_or_default)
}

/// Reads one of these words; the default is the first.
///
/// # Errors
/// As [`optional`].
pub fn word<T: Copy>(
    v: &impl Variables,
    name: &'static str,
    expected: &'static str,
    words: &[(&str, T)],
) -> Result<T, ConfigError> {
    let of = |value: &str| words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    optional(v, name, expected, of).map(|found| found.unwrap_or(words[0].1))
}

/// Parses a comma-separated list with `one`; its length must be in `range`.
fn list<T>(value: &str, range: std::ops::RangeInclusive<usize>, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let elements: Option<Vec<T>> = value.split(',').map(|element| one(element.trim())).collect();
    elements.filter(|elements| range.contains(&elements.len()))
}

pub fn file_system_id(v: &impl Variables) -> Result<FileSystemId, ConfigError> {
    required(v, "EFS_FILE_SYSTEM_ID", "the id of an EFS file system, such as fs-0123456789abcdef0", |value| {
        is_id(value, "fs-").then(|| FileSystemId::new(value))
    })
}

pub fn target_directory(v: &impl Variables) -> Result<PathBuf, ConfigError> {
    optional(v, "TARGET_DIRECTORY", "the absolute path of the directory to count, such as /mnt/data", |value| {
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    })
    .map(|path| path.unwrap_or_else(|| PathBuf::from("/data")))
}

/// Maximum time of one invocation of `count`; `None`: as long as Lambda allows.
pub fn count_budget(v: &impl Variables) -> Result<Option<Duration>, ConfigError> {
    optional(v, "COUNT_BUDGET_SECONDS", "seconds, more than 0 and at most 900, such as 60 or 0.5", |value| {
        let seconds = value.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 900.0)?;
        Duration::try_from_secs_f64(seconds).ok()
    })
}

/// A warm process reads everything at every N-th count and only changed directories in between; `None`: every count reads
/// everything.
pub fn count_full_every(v: &impl Variables) -> Result<Option<NonZero<u32>>, ConfigError> {
    optional(v, "COUNT_FULL_EVERY", "a whole number of counts, 1 or more", number)
}

/// Maximum age of a count that is reused; zero: none.
pub fn count_cache(v: &impl Variables) -> Result<Duration, ConfigError> {
    optional(v, "COUNT_CACHE_SECONDS", "a whole number of seconds, at most 86400; 0 for never", |value| {
        number(value).filter(|seconds| *seconds <= 86_400).map(Duration::from_secs)
    })
    .map(Option::unwrap_or_default)
}

pub fn vpc_id(v: &impl Variables) -> Result<VpcId, ConfigError> {
    required(v, "VPC_ID", "the id of a VPC, such as vpc-0123456789abcdef0", |value| {
        is_id(value, "vpc-").then(|| VpcId::new(value))
    })
}

/// Candidate subnets; empty: all of the VPC.
pub fn subnet_ids(v: &impl Variables) -> Result<Vec<SubnetId>, ConfigError> {
    optional(v, "SUBNET_IDS", "1 to 200 subnet ids, separated by commas", |value| {
        list(value, 1..=200, |id| is_id(id, "subnet-").then(|| SubnetId::new(id)))
    })
    .map(Option::unwrap_or_default)
}

pub fn security_group_ids(v: &impl Variables) -> Result<Vec<SecurityGroupId>, ConfigError> {
    required(v, "SECURITY_GROUP_IDS", "1 to 5 security group ids, separated by commas", |value| {
        list(value, 1..=5, |id| is_id(id, "sg-").then(|| SecurityGroupId::new(id)))
    })
}

/// The `IpAddressType` of new mount targets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IpAddressType {
    #[default]
    Ipv4Only,
    DualStack,
    /// In a subnet that has IPv6 only.
    Ipv6Only,
}

pub fn ip_address_type(v: &impl Variables) -> Result<IpAddressType, ConfigError> {
    let words = [
        ("IPV4_ONLY", IpAddressType::Ipv4Only),
        ("DUAL_STACK", IpAddressType::DualStack),
        ("IPV6_ONLY", IpAddressType::Ipv6Only),
    ];
    word(v, "IP_ADDRESS_TYPE", "IPV4_ONLY, DUAL_STACK or IPV6_ONLY", &words)
}

pub fn parameter_name(v: &impl Variables) -> Result<ParameterName, ConfigError> {
    optional(
        v,
        "SSM_PARAMETER_NAME",
        "the full name of a parameter: it begins with / and holds letters, digits and . - _ / only",
        |value| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_/".contains(&b);
            (value.starts_with('/')
                && !value.ends_with('/')
                && !value.contains("//")
                && value.len() <= MAX_PARAMETER_NAME
                && value.matches('/').count() <= MAX_PARAMETER_LEVELS
                && value.bytes().all(allowed))
            .then(|| ParameterName::new(value))
        },
    )
    .map(|name| name.unwrap_or_else(|| ParameterName::new(DEFAULT_PARAMETER_NAME)))
}

/// The type of the published parameter.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ParameterType {
    #[default]
    String,
    SecureString,
}

pub fn parameter_type(v: &impl Variables) -> Result<ParameterType, ConfigError> {
    optional(v, "SSM_PARAMETER_TYPE", "String or SecureString", |value| match value {
        "String" => Some(ParameterType::String),
        "SecureString" => Some(ParameterType::SecureString),
        _ => None,
    })
    .map(Option::unwrap_or_default)
}

/// The service to redeploy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceName {
    pub cluster: String,
    pub service: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.service)
    }
}

pub fn service_name(v: &impl Variables) -> Result<ServiceName, ConfigError> {
    // ECS accepts a name or a full ARN.
    let name = |value: &str| (value.len() <= 1024 && !value.contains(char::is_whitespace)).then(|| value.to_owned());
    Ok(ServiceName {
        cluster: required(v, "ECS_CLUSTER_NAME", "the name or ARN of an ECS cluster", name)?,
        service: required(v, "ECS_SERVICE_NAME", "the name or ARN of an ECS service", name)?,
    })
}

pub fn policy(v: &impl Variables) -> Result<Policy, ConfigError> {
    let default = Policy::default();
    Ok(Policy {
        threshold: optional(v, "FILE_COUNT_THRESHOLD", "a whole number of files, 0 or more", number)?
            .unwrap_or(default.threshold),
        rule: optional(v, "SCALING_RULE", SCALING_RULE_EXPECTED, rules::named)?.unwrap_or(default.rule),
        initial_mount_targets: optional(v, "INITIAL_MOUNT_TARGETS", "a whole number of targets, 0 or more", number)?
            .unwrap_or(default.initial_mount_targets),
        cooldown_seconds: optional(v, "COOLDOWN_SECONDS", "a whole number of seconds, 0 or more", number)?
            .unwrap_or(default.cooldown_seconds),
        min_mount_targets: optional(v, "MIN_MOUNT_TARGETS", "a whole number of targets, 0 or more", number)?
            .unwrap_or(default.min_mount_targets),
        max_mount_targets: optional(v, "MAX_MOUNT_TARGETS", "a whole number of targets, 1 or more", |value| {
            number(value).filter(|&max: &u32| max > 0)
        })?,
        redeploy: redeploy(v)?,
    })
}

/// Whether the service is redeployed when the list changes. Not needed for one that rereads the list by itself.
pub fn redeploy(v: &impl Variables) -> Result<bool, ConfigError> {
    word(v, "REDEPLOY", "on-change or never", &[("on-change", true), ("never", false)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &'static str, value: &'static str) -> impl Variables {
        move |asked: &str| (asked == name).then(|| value.to_owned())
    }

    const NOTHING: fn(&str) -> Option<String> = |_| None;

    #[test]
    fn the_defaults_are_the_original_designs() {
        let policy = policy(&NOTHING).unwrap();
        assert_eq!(policy.threshold, 100_000);
        assert_eq!(policy.initial_mount_targets, 2);
        assert_eq!(target_directory(&NOTHING).unwrap(), PathBuf::from("/data"));
        assert_eq!(parameter_name(&NOTHING).unwrap().as_str(), "/efs-mount-autoscaling/mount-targets");
        assert_eq!(parameter_type(&NOTHING).unwrap(), ParameterType::String);
        assert!(subnet_ids(&NOTHING).unwrap().is_empty());
        assert_eq!((count_budget(&NOTHING), count_full_every(&NOTHING)), (Ok(None), Ok(None)));
        assert_eq!(count_cache(&NOTHING), Ok(Duration::ZERO));
    }

    #[test]
    fn a_missing_or_bad_variable_is_named_with_what_was_expected() {
        let missing = file_system_id(&NOTHING).unwrap_err().to_string();
        assert_eq!(
            missing,
            "EFS_FILE_SYSTEM_ID is missing: expected the id of an EFS file system, such as fs-0123456789abcdef0"
        );
        assert!(matches!(vpc_id(&one("VPC_ID", "")), Err(ConfigError::Missing { .. })));
        let bad = policy(&one("FILE_COUNT_THRESHOLD", "-1")).unwrap_err().to_string();
        assert_eq!(bad, "FILE_COUNT_THRESHOLD is \"-1\": expected a whole number of files, 0 or more");
    }

    #[test]
    fn every_value_has_a_bound() {
        for (name, value) in [
            ("FILE_COUNT_THRESHOLD", "18446744073709551616"),
            ("MAX_MOUNT_TARGETS", "0"),
            ("SCALING_RULE", "sometimes"),
            ("COOLDOWN_SECONDS", "1.5"),
            ("INITIAL_MOUNT_TARGETS", "two"),
        ] {
            assert!(policy(&one(name, value)).is_err(), "{name}={value}");
        }
        for value in ["0", "-1", "901", "NaN", "inf", "1e-30", "ten"] {
            let read = count_budget(&one("COUNT_BUDGET_SECONDS", value));
            assert!(read.is_err() || read == Ok(Some(Duration::ZERO)), "{value}");
        }
        assert_eq!(count_budget(&one("COUNT_BUDGET_SECONDS", "0.5")), Ok(Some(Duration::from_millis(500))));
        assert!(count_full_every(&one("COUNT_FULL_EVERY", "0")).is_err());
        assert!(count_cache(&one("COUNT_CACHE_SECONDS", "86401")).is_err());
        assert!(count_cache(&one("COUNT_CACHE_SECONDS", "-1")).is_err());
        assert!(file_system_id(&one("EFS_FILE_SYSTEM_ID", "fs-12")).is_err());
        assert!(file_system_id(&one("EFS_FILE_SYSTEM_ID", "vpc-0123456789abcdef0")).is_err());
        assert!(target_directory(&one("TARGET_DIRECTORY", "data")).is_err());
        assert!(parameter_name(&one("SSM_PARAMETER_NAME", "mount-targets")).is_err());
        assert!(parameter_name(&one("SSM_PARAMETER_NAME", "/a b")).is_err());
        assert!(parameter_name(&one("SSM_PARAMETER_NAME", "/1/2/3/4/5/6/7/8/9/10/11/12/13/14")).is_err());
        assert!(parameter_type(&one("SSM_PARAMETER_TYPE", "StringList")).is_err());
        assert!(service_name(&one("ECS_CLUSTER_NAME", "a b")).is_err());
        let six = "sg-00000001,sg-00000002,sg-00000003,sg-00000004,sg-00000005,sg-00000006";
        assert!(security_group_ids(&one("SECURITY_GROUP_IDS", six)).is_err());
        assert_eq!(security_group_ids(&one("SECURITY_GROUP_IDS", "sg-00000001, sg-00000002")).unwrap().len(), 2);
        assert!(subnet_ids(&one("SUBNET_IDS", "subnet-00000001,,")).is_err());
    }
}
