//! Which image of an index is meant.

use super::{Descriptor, ImageIndex, Platform};

/// The manifest of an index that serves `wanted` best: the very platform, else the newest variant that runs on
/// it, else the only one of an index that names no platforms at all.
pub fn select<'a>(index: &'a ImageIndex, wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<(bool, Option<String>, &Descriptor)> = None;
    for descriptor in index.manifests() {
        let Some(offered) = descriptor.platform().as_ref().map(Platform::from) else { continue };
        if !wanted.accepts(&offered) {
            continue;
        }
        let rank = (offered == *wanted, offered.variant);
        if best.as_ref().is_none_or(|(exact, variant, _)| rank > (*exact, variant.clone())) {
            best = Some((rank.0, rank.1, descriptor));
        }
    }
    match (best, index.manifests().as_slice()) {
        (Some((_, _, descriptor)), _) => Some(descriptor),
        (None, [only]) if only.platform().is_none() => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Digest, media_type};
    use rstest::rstest;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<String> = platforms
            .iter()
            .map(|platform| {
                let digest = Digest::of(platform.as_bytes());
                let platform = match platform.split('/').collect::<Vec<_>>()[..] {
                    [os, architecture] => {
                        format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
                    }
                    [os, architecture, variant] => format!(
                        r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
                    ),
                    _ => String::new(),
                };
                format!(
                    r#"{{"mediaType":"{}","size":1,"digest":"{digest}"{platform}}}"#,
                    media_type::OCI_MANIFEST
                )
            })
            .collect();
        serde_json::from_str(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(",")))
            .unwrap()
    }

    #[rstest]
    #[case(&["linux/arm64", "linux/amd64"], "linux/amd64", Some("linux/amd64"))]
    #[case(&["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v6", Some("linux/arm/v6"))]
    #[case(&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some("linux/arm/v6"))]
    #[case(&["linux/arm64/v8", "unknown/unknown"], "linux/arm64", Some("linux/arm64/v8"))]
    #[case(&["linux/amd64", "linux/amd64/v3"], "linux/amd64", Some("linux/amd64"))]
    #[case(&["linux/amd64", "linux/amd64/v3"], "linux/amd64/v3", Some("linux/amd64/v3"))]
    #[case(&["linux/amd64"], "linux/s390x", None)]
    #[case(&["windows/amd64"], "linux/amd64", None)]
    #[case(&["none"], "linux/amd64", Some("none"))]
    #[case(&["none", "other"], "linux/amd64", None)]
    #[case(&[], "linux/amd64", None)]
    fn selects(#[case] offered: &[&str], #[case] wanted: Platform, #[case] chosen: Option<&str>) {
        let index = index(offered);
        let selected = select(&index, &wanted).map(|descriptor| descriptor.digest().to_string());
        assert_eq!(selected, chosen.map(|name| Digest::of(name.as_bytes()).to_string()));
    }
}
