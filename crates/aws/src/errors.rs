//! Every documented error of every call of the functions, and its meaning for the caller. A test compares this table with
//! the SDKs' models, so that an error added by a new SDK version fails it.
//!
//! Sources: the errors of each call in its API reference, and the "Common errors" page of each service.

use std::fmt;

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};

/// The meaning of an error for the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(dead_code, reason = "a function links only the services that it calls")]
pub enum Meaning {
    /// Throttled, without effect: retry less often.
    Throttled,
    /// Not now, without effect: retry.
    Later,
    /// The call may have taken effect: look, then retry.
    Uncertain,
    /// A retry would fail the same way: stop.
    Refused,
    /// The resource does not exist.
    NotFound,
    /// Not in this subnet: try the next one.
    Subnet,
    /// Not in this zone: try the next one.
    Zone,
    /// The zone has a mount target, or the file system's mount targets are in another VPC.
    Conflict,
    /// The parameter has another type.
    TypeMismatch,
}

/// One call of one service.
pub(crate) struct Call {
    /// The name in IAM and the documentation.
    pub operation: &'static str,
    /// The errors of this call. They take precedence over [`COMMON`].
    pub errors: &'static [(&'static str, Meaning)],
    /// The meaning of a 4xx with an undocumented code.
    pub undocumented: Meaning,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation)
    }
}

#[allow(unused_imports, reason = "a function links only the services that it calls")]
use Meaning::{Conflict, Later, NotFound, Refused, Subnet, Throttled, TypeMismatch, Uncertain, Zone};

#[cfg(feature = "efs")]
pub(crate) const DESCRIBE_MOUNT_TARGETS: Call = Call {
    operation: "efs:DescribeMountTargets",
    errors: &[
        ("AccessPointNotFound", Refused),
        ("BadRequest", Refused),
        ("FileSystemNotFound", NotFound),
        ("InternalServerError", Uncertain),
        ("MountTargetNotFound", Refused),
    ],
    undocumented: Refused,
};

#[cfg(feature = "efs")]
pub(crate) const DESCRIBE_FILE_SYSTEMS: Call = Call {
    operation: "efs:DescribeFileSystems",
    errors: &[("BadRequest", Refused), ("FileSystemNotFound", NotFound), ("InternalServerError", Uncertain)],
    undocumented: Refused,
};

/// An unspecific or undocumented refusal of EFS counts as the subnet's: other subnets are tried, and a general refusal
/// fails for each of them.
#[cfg(feature = "efs")]
pub(crate) const CREATE_MOUNT_TARGET: Call = Call {
    operation: "efs:CreateMountTarget",
    errors: &[
        // The policy may allow other subnets.
        ("AccessDeniedException", Subnet),
        ("AccessDenied", Subnet),
        // The zone of the subnet is not that of the One Zone file system.
        ("AvailabilityZonesMismatch", Zone),
        // For example a subnet of an Outpost, or one that does not fit the address type.
        ("BadRequest", Subnet),
        ("ValidationException", Subnet),
        ("ValidationError", Subnet),
        ("FileSystemNotFound", Refused),
        ("IncorrectFileSystemLifeCycleState", Later),
        ("InternalServerError", Uncertain),
        // The request has none.
        ("IpAddressInUse", Subnet),
        ("MountTargetConflict", Conflict),
        // A quota of the account in the region.
        ("NetworkInterfaceLimitExceeded", Refused),
        ("NoFreeAddressesInSubnet", Subnet),
        ("SecurityGroupLimitExceeded", Refused),
        ("SecurityGroupNotFound", Refused),
        ("SubnetNotFound", Subnet),
        ("UnsupportedAvailabilityZone", Zone),
    ],
    undocumented: Subnet,
};

/// EC2 documents its errors for all calls together, and the SDK has no model of them.
#[cfg(feature = "ec2")]
pub(crate) const DESCRIBE_SUBNETS: Call = Call {
    operation: "ec2:DescribeSubnets",
    errors: &[
        ("InvalidSubnetID.Malformed", Refused),
        ("InvalidSubnetID.NotFound", Refused),
        ("InvalidVpcID.Malformed", Refused),
        ("InvalidVpcID.NotFound", Refused),
        ("FilterLimitExceeded", Refused),
        ("InvalidFilter", Refused),
        ("InvalidNextToken", Later),
        ("InternalError", Uncertain),
        ("InternalFailure", Uncertain),
        ("ServerInternal", Uncertain),
        ("Unavailable", Uncertain),
    ],
    undocumented: Refused,
};

#[cfg(feature = "ecs")]
pub(crate) const DESCRIBE_SERVICES: Call = Call {
    operation: "ecs:DescribeServices",
    errors: &[
        ("AccessDeniedException", Refused),
        ("ClientException", Refused),
        ("ClusterNotFoundException", NotFound),
        ("InvalidParameterException", Refused),
        ("ServerException", Uncertain),
    ],
    undocumented: Refused,
};

#[cfg(feature = "ecs")]
pub(crate) const UPDATE_SERVICE: Call = Call {
    operation: "ecs:UpdateService",
    errors: &[
        ("AccessDeniedException", Refused),
        ("ClientException", Refused),
        ("ClusterNotFoundException", Refused),
        ("InvalidParameterException", Refused),
        ("NamespaceNotFoundException", Refused),
        ("PlatformTaskDefinitionIncompatibilityException", Refused),
        ("PlatformUnknownException", Refused),
        ("ServerException", Uncertain),
        ("ServiceNotActiveException", Refused),
        ("ServiceNotFoundException", Refused),
        ("UnsupportedFeatureException", Refused),
    ],
    undocumented: Refused,
};

#[cfg(feature = "ssm")]
pub(crate) const GET_PARAMETERS: Call = Call {
    operation: "ssm:GetParameters",
    errors: &[("InternalServerError", Uncertain), ("InvalidKeyId", Refused)],
    undocumented: Refused,
};

#[cfg(feature = "ssm")]
pub(crate) const PUT_PARAMETER: Call = Call {
    operation: "ssm:PutParameter",
    errors: &[
        ("HierarchyLevelLimitExceededException", Refused),
        ("HierarchyTypeMismatchException", TypeMismatch),
        ("IncompatiblePolicyException", Refused),
        ("InternalServerError", Uncertain),
        ("InvalidAllowedPatternException", Refused),
        ("InvalidKeyId", Refused),
        ("InvalidPolicyAttributeException", Refused),
        ("InvalidPolicyTypeException", Refused),
        ("ParameterAlreadyExists", Refused),
        ("ParameterLimitExceeded", Refused),
        // 100 versions, and the oldest has a label: Systems Manager cannot delete it.
        ("ParameterMaxVersionLimitExceeded", Refused),
        ("ParameterPatternMismatchException", Refused),
        ("PoliciesLimitExceededException", Refused),
        ("TooManyUpdates", Throttled),
        ("UnsupportedParameterType", Refused),
    ],
    undocumented: Refused,
};

#[cfg(feature = "ssm")]
pub(crate) const DELETE_PARAMETER: Call = Call {
    operation: "ssm:DeleteParameter",
    errors: &[("InternalServerError", Uncertain), ("ParameterNotFound", NotFound)],
    undocumented: Refused,
};

/// Errors common to all services, including the SDK's lists of throttling and transient errors.
const COMMON: &[(&str, Meaning)] = &[
    ("AccessDenied", Refused),
    ("AccessDeniedException", Refused),
    ("AuthFailure", Refused),
    ("Blocked", Refused),
    // Credentials are renewed, or the clock is corrected.
    ("ExpiredToken", Later),
    ("ExpiredTokenException", Later),
    ("RequestExpired", Later),
    ("IncompleteSignature", Refused),
    ("IncompleteSignatureException", Refused),
    ("InternalFailure", Uncertain),
    ("InvalidAction", Refused),
    ("InvalidClientTokenId", Refused),
    ("InvalidParameterCombination", Refused),
    ("InvalidParameterValue", Refused),
    ("InvalidQueryParameter", Refused),
    ("InvalidSignatureException", Refused),
    ("MalformedHttpRequestException", Refused),
    ("MalformedQueryString", Refused),
    ("MissingAction", Refused),
    ("MissingAuthenticationToken", Refused),
    ("MissingAuthenticationTokenException", Refused),
    ("MissingParameter", Refused),
    ("NotAuthorized", Refused),
    ("OptInRequired", Refused),
    ("RequestAbortedException", Uncertain),
    ("RequestEntityTooLargeException", Refused),
    ("ServiceUnavailable", Uncertain),
    ("SignatureDoesNotMatch", Refused),
    ("UnauthorizedOperation", Refused),
    ("UnknownOperationException", Refused),
    ("UnrecognizedClientException", Refused),
    ("ValidationError", Refused),
    ("ValidationException", Refused),
];

impl Call {
    /// The meaning of an error with this code and HTTP status.
    pub fn meaning(&self, code: &str, status: u16) -> Meaning {
        let listed = |list: &[(&str, Meaning)]| list.iter().find(|(listed, _)| *listed == code).map(|entry| entry.1);
        match listed(self.errors).or_else(|| listed(COMMON)) {
            _ if THROTTLING_ERRORS.contains(&code) => Throttled,
            // A 5xx: the service failed during the call.
            _ if status >= 500 || TRANSIENT_ERRORS.contains(&code) => Uncertain,
            Some(meaning) => meaning,
            None if status == 429 => Throttled,
            None => self.undocumented,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]
    use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

    use super::*;

    const CALLS: [(&str, &str, Call); 9] = [
        ("aws-sdk-efs", "describe_mount_targets", DESCRIBE_MOUNT_TARGETS),
        ("aws-sdk-efs", "describe_file_systems", DESCRIBE_FILE_SYSTEMS),
        ("aws-sdk-efs", "create_mount_target", CREATE_MOUNT_TARGET),
        ("aws-sdk-ec2", "describe_subnets", DESCRIBE_SUBNETS),
        ("aws-sdk-ecs", "describe_services", DESCRIBE_SERVICES),
        ("aws-sdk-ecs", "update_service", UPDATE_SERVICE),
        ("aws-sdk-ssm", "get_parameters", GET_PARAMETERS),
        ("aws-sdk-ssm", "put_parameter", PUT_PARAMETER),
        ("aws-sdk-ssm", "delete_parameter", DELETE_PARAMETER),
    ];

    /// The errors of an operation in the SDK that this workspace is built with: its source is generated from the
    /// service's model, and each variant has the name of the error.
    fn modelled(metadata: &serde_json::Value, sdk: &str, operation: &str) -> BTreeSet<String> {
        let packages = metadata["packages"].as_array().unwrap();
        let manifest =
            packages.iter().find(|package| package["name"] == sdk).unwrap()["manifest_path"].as_str().unwrap();
        let source = PathBuf::from(manifest).with_file_name("src/operation").join(operation).with_extension("rs");
        let source = fs::read_to_string(source).unwrap();
        let variants = source.split_once("\npub enum ").unwrap().1.split_once("\n}").unwrap().0;
        let variants = variants.lines().filter_map(|line| line.split_once("(crate::types::error::"));
        variants.map(|(name, _)| name.trim().to_owned()).collect()
    }

    #[test]
    fn the_table_has_every_error_that_the_sdks_know() {
        // What other platforms need is not there: nothing here has asked for it.
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", &platform];
        let cargo = Command::new(env!("CARGO")).args(arguments).output().unwrap();
        assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&cargo.stdout).unwrap();
        let mut known = 0;
        for (sdk, operation, call) in CALLS {
            let listed: BTreeSet<_> = call.errors.iter().map(|(code, _)| (*code).to_owned()).collect();
            assert_eq!(listed.len(), call.errors.len(), "{call} has an error twice");
            let modelled = modelled(&metadata, sdk, operation);
            let new: Vec<_> = modelled.difference(&listed).collect();
            assert!(new.is_empty(), "{sdk} has errors of {call} that crates/aws/src/errors.rs does not: {new:?}");
            known += modelled.len();
        }
        assert!(known > 50, "only {known} errors were found in the SDKs' source: has its form changed?");
    }

    #[test]
    fn a_server_that_breaks_says_nothing_for_certain() {
        for (_, _, call) in CALLS {
            for code in ["InternalServerError", "ServerException", "AccessDeniedException", "NeverHeardOf"] {
                assert_eq!(call.meaning(code, 500), Uncertain, "{call} {code}");
            }
            assert_eq!(call.meaning("RequestLimitExceeded", 503), Throttled);
            assert_eq!(call.meaning("NeverHeardOf", 429), Throttled);
            assert_eq!(call.meaning("NeverHeardOf", 400), call.undocumented);
        }
    }
}
