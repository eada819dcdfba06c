//! Errors and their codes. Each code is Lambda's `errorType`, is matched by the state machine's `ErrorEquals`, and is a
//! contract. `statemachine/README.md` lists them.

use std::{fmt, io, path::PathBuf};

use crate::model::{LifeCycle, MountTargetId, ParameterName};

/// How the state machine handles an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Retried, with backoff and full jitter.
    Retry,
    /// `Evaluate` chooses again without this subnet, or without this zone.
    NextSubnet,
    /// Ends the execution in `Failed`.
    Stop,
}

/// Every error code of a function.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Code {
    InvalidInput,
    TargetDirectoryUnreadable,
    AwsThrottled,
    AwsUnavailable,
    AwsRefused,
    FileSystemNotFound,
    NoAvailableTargets,
    SubnetRefused,
    ZoneRefused,
    ConflictNotVisible,
    TargetNotFound,
    TargetFailed,
    TargetNotVisible,
    ParameterTooLarge,
    ParameterTypeMismatch,
}

impl Code {
    pub fn kind(self) -> Kind {
        match self {
            Self::AwsThrottled
            | Self::AwsUnavailable
            | Self::ConflictNotVisible
            | Self::TargetNotFound
            | Self::TargetNotVisible => Kind::Retry,
            Self::SubnetRefused | Self::ZoneRefused => Kind::NextSubnet,
            _ => Kind::Stop,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An error that has a code.
pub trait Coded: std::error::Error + 'static {
    /// Every error code of this operation.
    const CODES: &'static [Code];

    fn code(&self) -> Code;

    /// An invalid input.
    fn invalid_input(err: InvalidInput) -> Self;
}

/// Maps each variant to its code, so that the list of codes is complete.
macro_rules! codes {
    ($error:ident { $($pattern:pat => $code:ident,)+ }) => {
        impl Coded for $error {
            const CODES: &'static [Code] = &[$(Code::$code),+];

            fn code(&self) -> Code {
                use $error::*;
                match self { $($pattern => Code::$code),+ }
            }

            fn invalid_input(err: InvalidInput) -> Self {
                Self::InvalidInput(err)
            }
        }
    };
}

/// An invalid input: the field, the error, what is expected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidInput(pub String);

/// An error response of AWS.
#[derive(Debug)]
pub struct AwsFault {
    /// The call, such as `efs:CreateMountTarget`.
    pub operation: &'static str,
    /// The resource of the call: the parameter, the subnet, the service.
    pub resource: Box<str>,
    /// AWS's code, such as `AccessDeniedException`, or the failure of the connection.
    pub code: String,
    pub message: String,
    pub request_id: Option<Box<str>>,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for AwsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}: {}", self.operation, self.resource, self.code, self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " (request id {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AwsFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// A failed AWS call, by how the caller reacts.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// Too many calls. Retry later.
    #[error(transparent)]
    Throttled(AwsFault),
    /// AWS or the network failed. Retry later.
    #[error(transparent)]
    Unavailable(AwsFault),
    /// A retry would fail the same way.
    #[error(transparent)]
    Refused(AwsFault),
}

/// Failures of `efs:CreateMountTarget` that its caller distinguishes.
#[derive(Debug, thiserror::Error)]
pub enum CreateFailure {
    /// The zone already has a target, or the file system's targets are in another VPC.
    #[error(transparent)]
    Conflict(AwsFault),
    /// Not now, without effect: the file system is being changed.
    #[error(transparent)]
    Later(AwsFault),
    /// Not in this subnet: no free address, or no such subnet.
    #[error(transparent)]
    Subnet(AwsFault),
    /// Not in this zone.
    #[error(transparent)]
    Zone(AwsFault),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

/// Failures of `ssm:PutParameter` that its caller distinguishes.
#[derive(Debug, thiserror::Error)]
pub enum PutFailure {
    /// The parameter has another type, which Systems Manager cannot change.
    #[error(transparent)]
    TypeMismatch(AwsFault),
    /// The value does not fit into a standard parameter.
    #[error(transparent)]
    TooLarge(AwsFault),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

impl PutFailure {
    /// For callers with small values of one type.
    pub fn into_aws(self) -> AwsError {
        match self {
            Self::Aws(error) => error,
            Self::TypeMismatch(fault) | Self::TooLarge(fault) => AwsError::Refused(fault),
        }
    }
}

/// Failures of `ecs:UpdateService` that its caller distinguishes.
#[derive(Debug, thiserror::Error)]
pub enum UpdateFailure {
    /// Too many deployments are in progress.
    #[error(transparent)]
    Busy(AwsFault),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

#[derive(Debug, thiserror::Error)]
pub enum CountError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    /// The path of `TARGET_DIRECTORY`, or of `NFS_HOST` and `NFS_ROOT`.
    #[error("{path}, which is to be counted, cannot be read: {source}", path = path.display())]
    TargetDirectoryUnreadable { path: PathBuf, source: io::Error },
}

codes!(CountError {
    InvalidInput(_) => InvalidInput,
    TargetDirectoryUnreadable { .. } => TargetDirectoryUnreadable,
});

#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    #[error("EFS_FILE_SYSTEM_ID {0} does not exist in this account and region")]
    FileSystemNotFound(crate::model::FileSystemId),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

codes!(EvaluateError {
    InvalidInput(_) => InvalidInput,
    FileSystemNotFound(_) => FileSystemNotFound,
    Aws(AwsError::Throttled(_)) => AwsThrottled,
    Aws(AwsError::Unavailable(_)) => AwsUnavailable,
    Aws(AwsError::Refused(_)) => AwsRefused,
});

#[derive(Debug, thiserror::Error)]
pub enum CreateTargetError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    #[error(transparent)]
    SubnetRefused(AwsFault),
    #[error(transparent)]
    ZoneRefused(AwsFault),
    #[error(
        "EFS reports a conflict and shows no target in the zone: it will show one soon, or the file system's targets are in another VPC than the subnet: {0}"
    )]
    ConflictNotVisible(AwsFault),
    /// Refused for now, without effect.
    #[error(transparent)]
    Later(AwsFault),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

codes!(CreateTargetError {
    InvalidInput(_) => InvalidInput,
    SubnetRefused(_) => SubnetRefused,
    ZoneRefused(_) => ZoneRefused,
    ConflictNotVisible(_) => ConflictNotVisible,
    Later(_) => AwsUnavailable,
    Aws(AwsError::Throttled(_)) => AwsThrottled,
    Aws(AwsError::Unavailable(_)) => AwsUnavailable,
    Aws(AwsError::Refused(_)) => AwsRefused,
});

#[derive(Debug, thiserror::Error)]
pub enum PollAvailableError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    /// Deleted meanwhile, or too new for this response of EFS.
    #[error("EFS does not show the mount target {0}")]
    TargetNotFound(MountTargetId),
    #[error("the mount target {id} is {state} and will not become available")]
    TargetFailed { id: MountTargetId, state: LifeCycle },
    #[error(transparent)]
    Aws(#[from] AwsError),
}

codes!(PollAvailableError {
    InvalidInput(_) => InvalidInput,
    TargetNotFound(_) => TargetNotFound,
    TargetFailed { .. } => TargetFailed,
    Aws(AwsError::Throttled(_)) => AwsThrottled,
    Aws(AwsError::Unavailable(_)) => AwsUnavailable,
    Aws(AwsError::Refused(_)) => AwsRefused,
});

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    #[error("no mount target of the file system can be published; the published list is left as it is")]
    NoAvailableTargets,
    #[error("EFS does not show the mount target {0} as available yet")]
    TargetNotVisible(MountTargetId),
    #[error("the list of {targets} mount targets takes {bytes} bytes, and a standard parameter holds {limit}", limit = crate::published::PARAMETER_LIMIT)]
    ParameterTooLarge { targets: usize, bytes: usize },
    #[error(
        "the parameter exists with another type than SSM_PARAMETER_TYPE asks for, and the type of a parameter cannot be changed; delete the parameter, and the next execution writes it anew: {0}"
    )]
    ParameterTypeMismatch(AwsFault),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

codes!(PublishError {
    InvalidInput(_) => InvalidInput,
    NoAvailableTargets => NoAvailableTargets,
    TargetNotVisible(_) => TargetNotVisible,
    ParameterTooLarge { .. } => ParameterTooLarge,
    ParameterTypeMismatch(_) => ParameterTypeMismatch,
    Aws(AwsError::Throttled(_)) => AwsThrottled,
    Aws(AwsError::Unavailable(_)) => AwsUnavailable,
    Aws(AwsError::Refused(_)) => AwsRefused,
});

#[derive(Debug, thiserror::Error)]
pub enum RedeployError {
    #[error(transparent)]
    InvalidInput(InvalidInput),
    /// Without the record, every execution would redeploy the service again.
    #[error("the service is not redeployed, since the ledger's parameter {parameter} cannot be written: {error}")]
    LedgerNotWritable { parameter: ParameterName, error: AwsError },
    #[error(
        "the service is being redeployed ({deployment}), and the ledger's parameter {parameter} cannot be written: {error}"
    )]
    NotRecorded { deployment: String, parameter: ParameterName, error: AwsError },
    #[error(transparent)]
    Aws(#[from] AwsError),
}

codes!(RedeployError {
    InvalidInput(_) => InvalidInput,
    Aws(AwsError::Throttled(_))
    | LedgerNotWritable { error: AwsError::Throttled(_), .. }
    | NotRecorded { error: AwsError::Throttled(_), .. } => AwsThrottled,
    Aws(AwsError::Unavailable(_))
    | LedgerNotWritable { error: AwsError::Unavailable(_), .. }
    | NotRecorded { error: AwsError::Unavailable(_), .. } => AwsUnavailable,
    Aws(AwsError::Refused(_))
    | LedgerNotWritable { error: AwsError::Refused(_), .. }
    | NotRecorded { error: AwsError::Refused(_), .. } => AwsRefused,
});
