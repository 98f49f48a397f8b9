//! What is known of registries by their names, each with its reason. Everything else is found out by asking.

use super::options::UploadStyle;

/// How a host differs from the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// How blobs are uploaded.
    pub(crate) style: UploadStyle,
    /// Whether the `Range` of an unfinished upload can be believed.
    pub(crate) tells_offset: bool,
    /// The smallest piece of a chunked upload, but for the last, in bytes.
    pub(crate) smallest_chunk: u64,
}

impl Quirks {
    /// The quirks of `host`.
    pub(crate) fn of(host: &str) -> Self {
        let name = host.split(':').next().unwrap_or_default();
        let usual = Self { style: UploadStyle::Streamed, tells_offset: true, smallest_chunk: 0 };
        if is_amazon(name) {
            // The `Range` of its answers is off, and parts go to S3, whose smallest is 5 MiB.
            Self { style: UploadStyle::Monolithic, tells_offset: false, smallest_chunk: 5 * 1024 * 1024 }
        } else if name.ends_with(".pkg.dev") || name == "gcr.io" || name.ends_with(".gcr.io") {
            // Artifact Registry: "chunked uploads are not supported".
            Self { style: UploadStyle::Monolithic, tells_offset: false, ..usual }
        } else {
            usual
        }
    }
}

/// Whether a host is Amazon's ECR, in any partition.
pub(crate) fn is_amazon(name: &str) -> bool {
    name == "public.ecr.aws"
        || name.contains(".dkr.ecr")
            && (name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn"))
        || name.contains(".dkr-ecr") && name.ends_with(".on.aws")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Source: aws/containers-roadmap#2831.
    #[rstest]
    #[case("ghcr.io", UploadStyle::Streamed)]
    #[case("registry.gitlab.com", UploadStyle::Streamed)]
    #[case("127.0.0.1:5000", UploadStyle::Streamed)]
    #[case("eu.gcr.io", UploadStyle::Monolithic)]
    #[case("gcr.io", UploadStyle::Monolithic)]
    #[case("europe-docker.pkg.dev", UploadStyle::Monolithic)]
    #[case("notgcr.io", UploadStyle::Streamed)]
    #[case("123456789012.dkr.ecr.eu-central-1.amazonaws.com", UploadStyle::Monolithic)]
    #[case("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", UploadStyle::Monolithic)]
    #[case("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", UploadStyle::Monolithic)]
    #[case("123456789012.dkr-ecr.eu-central-1.on.aws", UploadStyle::Monolithic)]
    #[case("dkr.ecr.example.org", UploadStyle::Streamed)]
    fn what_is_known_of_hosts(#[case] host: &str, #[case] style: UploadStyle) {
        assert_eq!(Quirks::of(host).style, style);
    }
}
