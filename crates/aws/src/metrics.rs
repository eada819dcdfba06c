//! Metrics in CloudWatch's Embedded Metric Format: a line of JSON on stdout, no call to AWS.

use std::io;

use domain::{
    metric::{BY_DECISION, FILE_SYSTEM_ID, NAMESPACE, Sample, TABLE, Unit},
    model::FileSystemId,
};
use metrics_cloudwatch_embedded::{Builder, Collector};

/// Where a function's samples go.
pub struct Metrics(&'static Collector);

impl Metrics {
    /// Every sample by this file system. Once per process.
    ///
    /// # Errors
    /// When the process has a recorder already.
    pub fn of(file_system: &FileSystemId) -> Result<Self, lambda_runtime::Error> {
        let collector = Builder::new()
            .cloudwatch_namespace(NAMESPACE)
            .with_dimension(FILE_SYSTEM_ID, file_system.to_string())
            .init()?;
        for metric in TABLE {
            let unit = match metric.unit {
                Unit::Count => metrics::Unit::Count,
                Unit::Seconds => metrics::Unit::Seconds,
                Unit::CountPerSecond => metrics::Unit::CountPerSecond,
            };
            metrics::describe_histogram!(metric.name, unit, "");
        }
        Ok(Self(collector))
    }

    /// Writes these samples, and these only, to stdout.
    pub(crate) fn emit(&self, samples: &[Sample]) -> io::Result<()> {
        for sample in samples {
            // Histograms, since a flush empties them: a gauge would be written again by the next request
            // of a warm process, even when that request counted nothing.
            match sample.decision {
                Some(decision) => metrics::histogram!(sample.metric.name, BY_DECISION => decision),
                None => metrics::histogram!(sample.metric.name),
            }
            .record(sample.value);
        }
        self.0.flush(io::stdout().lock())
    }
}
