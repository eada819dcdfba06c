//! AWS Systems Manager: the published parameter and the ledger.

use std::collections::BTreeMap;

use aws_sdk_ssm::{
    error::ProvideErrorMetadata,
    types::{ParameterTier, ParameterType as SdkType},
};
use domain::{
    config::ParameterType,
    error::{AwsError, AwsFault, PutFailure},
    model::ParameterName,
    ports::{DeleteParameter, Parameter, ReadParameters, WriteParameter},
    published::PARAMETER_LIMIT,
};

use crate::{
    Aws,
    fault::{classify, incomplete},
};

const GET: &str = "ssm:GetParameters";
const PUT: &str = "ssm:PutParameter";
/// One call takes this many names.
const NAMES_PER_CALL: usize = 10;

impl ReadParameters for Aws {
    async fn read_parameters(&self, names: &[ParameterName]) -> Result<BTreeMap<ParameterName, Parameter>, AwsError> {
        let mut found = BTreeMap::new();
        for names in names.chunks(NAMES_PER_CALL) {
            let names = names.iter().map(ToString::to_string).collect();
            let sent = self.ssm.get_parameters().set_names(Some(names)).with_decryption(true).send().await;
            for parameter in sent.map_err(|error| classify(GET, error))?.parameters() {
                let (Some(name), Some(value)) = (parameter.name(), parameter.value()) else {
                    return Err(incomplete(GET, "Name and Value"));
                };
                let parameter = Parameter { value: value.to_owned(), version: parameter.version() };
                found.insert(ParameterName::new(name), parameter);
            }
        }
        Ok(found)
    }
}

impl WriteParameter for Aws {
    async fn write_parameter(&self, name: &ParameterName, value: &str, kind: ParameterType) -> Result<i64, PutFailure> {
        if value.len() > PARAMETER_LIMIT {
            // Systems Manager would say so too; not sending it keeps the reason independent of its tier.
            return Err(PutFailure::TooLarge(AwsFault {
                operation: PUT,
                code: "ValueTooLarge".to_owned(),
                message: format!(
                    "{name}: {} bytes do not fit into the {PARAMETER_LIMIT} of a standard parameter",
                    value.len()
                ),
                request_id: None,
                source: None,
            }));
        }
        let sent = self
            .ssm
            .put_parameter()
            .name(name.as_str())
            .value(value)
            .r#type(match kind {
                ParameterType::String => SdkType::String,
                ParameterType::SecureString => SdkType::SecureString,
            })
            .tier(ParameterTier::Standard)
            .overwrite(true)
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(answer.version()),
            Err(error) => {
                let code = error.code().unwrap_or_default().to_owned();
                Err(match (code.as_str(), classify(PUT, error)) {
                    ("HierarchyTypeMismatchException", AwsError::Refused(fault)) => PutFailure::TypeMismatch(fault),
                    (_, other) => PutFailure::Aws(other),
                })
            }
        }
    }
}

impl DeleteParameter for Aws {
    async fn delete_parameter(&self, name: &ParameterName) -> Result<(), AwsError> {
        match self.ssm.delete_parameter().name(name.as_str()).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(()),
            Err(error) => Err(classify("ssm:DeleteParameter", error)),
        }
    }
}
