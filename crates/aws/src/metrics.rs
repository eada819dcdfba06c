//! Metrics in CloudWatch's Embedded Metric Format: a line of JSON on stdout, no call to AWS.

use std::io;

use domain::{
    metric::{FILE_SYSTEM_ID, NAMESPACE, REASON, Sample, TABLE, Unit},
    model::FileSystemId,
};
use metrics_cloudwatch_embedded::{Builder, Collector};

/// The recorder of a function's samples.
pub struct Metrics(&'static Collector);

impl Metrics {
    /// A recorder with this file system as dimension. Once per process.
    ///
    /// # Errors
    /// The process already has a recorder.
    pub fn of(file_system: &FileSystemId) -> Result<Self, lambda_runtime::Error> {
        let collector = Builder::new()
            .cloudwatch_namespace(NAMESPACE)
            .with_dimension(FILE_SYSTEM_ID, file_system.to_string())
            .init()?;
        for metric in TABLE {
            let unit = match metric.unit {
                Unit::Bytes => metrics::Unit::Bytes,
                Unit::Count => metrics::Unit::Count,
                Unit::Seconds => metrics::Unit::Seconds,
                Unit::CountPerSecond => metrics::Unit::CountPerSecond,
            };
            metrics::describe_histogram!(metric.name, unit, "");
        }
        Ok(Self(collector))
    }

    /// Writes exactly these samples: one line of JSON per set of dimensions.
    pub(crate) fn emit(&self, samples: &[Sample], out: impl io::Write) -> io::Result<()> {
        for sample in samples {
            // Histograms, because a flush empties them. A gauge would be written again by the next request of a warm
            // process, even if that request counted nothing.
            match sample.reason {
                Some(reason) => metrics::histogram!(sample.metric.name, REASON => reason),
                None => metrics::histogram!(sample.metric.name),
            }
            .record(sample.value);
        }
        self.0.flush(out)
    }
}

#[cfg(test)]
mod tests {
    use domain::metric::{DECISION, THRESHOLD};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_metric_and_its_dimensions_are_fields_of_one_object() {
        let metrics = Metrics::of(&FileSystemId::new("fs-1")).unwrap();
        let samples = [
            Sample { metric: THRESHOLD, value: 7.0, reason: None },
            Sample { metric: DECISION, value: 1.0, reason: Some("create") },
        ];
        let mut written = vec![];
        metrics.emit(&samples, &mut written).unwrap();
        let text = String::from_utf8(written).unwrap();
        let decision = text.lines().find(|line| line.contains("Reason")).unwrap();
        let parsed: Value = serde_json::from_str(decision).unwrap();
        // A parser takes the last of two fields with one name; written again, one is missing.
        assert_eq!(parsed.to_string().len(), decision.len(), "a field is there twice: {decision}");
        assert_eq!(parsed["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["FileSystemId", "Reason"]]));
        assert_eq!((&parsed["Reason"], &parsed["Decision"]), (&json!("create"), &json!([1.0])));
        for metric in TABLE {
            assert!(metric.name != REASON && metric.name != FILE_SYSTEM_ID, "{}", metric.name);
        }
    }
}
