//! AWS Systems Manager: the published parameter and the ledger.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::{ParameterTier, ParameterType as SdkType};
use domain::{
    config::ParameterType,
    error::{AwsError, AwsFault, PutFailure},
    model::ParameterName,
    ports::{DeleteParameter, Parameter, ReadParameters, WriteParameter},
    published::PARAMETER_LIMIT,
};

use crate::{
    Aws,
    errors::{DELETE_PARAMETER, GET_PARAMETERS, Meaning, PUT_PARAMETER},
    fault::{Failure, classify, incomplete},
};

/// Maximum number of names per call.
const NAMES_PER_CALL: usize = 10;

impl ReadParameters for Aws {
    async fn read_parameters(&self, names: &[ParameterName]) -> Result<BTreeMap<ParameterName, Parameter>, AwsError> {
        let mut found = BTreeMap::new();
        for names in names.chunks(NAMES_PER_CALL) {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let resource = names.join(" ");
            let sent = self.ssm.get_parameters().set_names(Some(names)).with_decryption(true).send().await;
            for parameter in sent.map_err(|err| classify(&GET_PARAMETERS, &resource, err))?.parameters() {
                let (Some(name), Some(value)) = (parameter.name(), parameter.value()) else {
                    return Err(incomplete(&GET_PARAMETERS, &resource, "Name and Value"));
                };
                let parameter = Parameter {
                    value: value.to_owned(),
                    version: parameter.version(),
                    modified_at: parameter.last_modified_date().and_then(|at| at.secs().try_into().ok()),
                };
                found.insert(ParameterName::new(name), parameter);
            }
        }
        Ok(found)
    }
}

impl WriteParameter for Aws {
    async fn write_parameter(&self, name: &ParameterName, value: &str, kind: ParameterType) -> Result<i64, PutFailure> {
        if value.len() > PARAMETER_LIMIT {
            // Systems Manager would refuse it too; checking here makes the error independent of the tier.
            return Err(PutFailure::TooLarge(AwsFault {
                operation: PUT_PARAMETER.operation,
                resource: name.to_string().into(),
                code: "ValueTooLarge".to_owned(),
                message: format!("{} bytes do not fit into the {PARAMETER_LIMIT} of a standard parameter", value.len()),
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
        let answer = sent.map_err(|err| match classify(&PUT_PARAMETER, name, err) {
            Failure { meaning: Meaning::TypeMismatch, fault } => PutFailure::TypeMismatch(fault),
            failure => PutFailure::Aws(failure.into()),
        })?;
        Ok(answer.version())
    }
}

impl DeleteParameter for Aws {
    async fn delete_parameter(&self, name: &ParameterName) -> Result<(), AwsError> {
        let sent = self.ssm.delete_parameter().name(name.as_str()).send().await;
        match sent.map_err(|err| classify(&DELETE_PARAMETER, name, err)) {
            Err(failure) if failure.meaning != Meaning::NotFound => Err(failure.into()),
            _ => Ok(()),
        }
    }
}
