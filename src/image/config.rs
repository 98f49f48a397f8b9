//! The image configuration, kept whole.
//!
//! `oci-spec`'s type drops what it does not know (health checks, `ONBUILD`, `SHELL`, vendors' keys) on a round
//! trip. A builder must not: whatever a base image carries is handed on. So every object here keeps the keys it
//! does not know in `extra`. Field names follow the OCI image specification ("Image Configuration") and, for
//! the keys Docker added, moby's `image/spec/specs-go/v1`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};

type Extra = serde_json::Map<String, serde_json::Value>;

/// The configuration blob of an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it (`MAINTAINER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `GOARCH`.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `GOOS`.
    #[serde(default)]
    pub os: String,
    /// What a container starts with.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers, by the digest of their uncompressed bytes.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How each layer and each setting came to be, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// Keys this program does not know (`os.version`, `os.features`, vendors').
    #[serde(flatten)]
    pub extra: Extra,
}

/// The `config` object of an image configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `EXPOSE`: `80/tcp` → `{}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `ENV`: `NAME=value`, in the order of definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `VOLUME`: path → `{}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// `WORKDIR`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`: instructions run when the image is built upon.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub shell: Vec<String>,
    /// Keys this program does not know (`ArgsEscaped`, `StopTimeout`, `Memory`, …).
    #[serde(flatten)]
    pub extra: Extra,
}

/// `HEALTHCHECK`. Durations are nanoseconds; 0 or absent means the runtime's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", arguments…]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a check has failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count, after the container's start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks while the start period lasts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The `rootfs` object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// The author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The builder's mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Keys this program does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ImageConfig {
    /// The configuration of an image with nothing in it, for `platform`.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            ..Self::default()
        }
    }

    /// Says which platform the image is for: the one that was `asked` for, whatever the base says; if none was, what the base
    /// says, in normal form. A variant stays where none was asked for, as in BuildKit.
    pub fn settle_platform(&mut self, asked: Option<&Platform>) {
        let own = self.platform();
        let platform = match asked {
            None => own,
            Some(asked) => {
                let same = (&asked.os, &asked.architecture) == (&own.os, &own.architecture);
                let variant = asked.variant.clone().or(own.variant.filter(|_| same));
                Platform { variant, ..asked.clone() }
            }
        };
        self.os = platform.os;
        self.architecture = platform.architecture;
        self.variant = platform.variant;
    }

    /// The platform the image is for.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

impl ContainerConfig {
    /// The value of the environment variable `name`.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    }

    /// Sets the environment variable `name`, in place where it exists.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.env.iter_mut().find(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name)) {
            Some(existing) => *existing = entry,
            None => self.env.push(entry),
        }
    }
}

/// Docker writes `null` for an absent list or map.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

// serde hands a reference to the field.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a docker-built image really carries, with the keys other libraries lose.
    const DOCKER: &str = r#"{
        "architecture": "amd64", "os": "linux", "os.version": "10", "created": "2024-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin", "A="], "Cmd": ["sh"], "OnBuild": ["RUN x"], "Shell": ["/bin/bash", "-c"],
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1000000000, "StartInterval": 5, "Retries": 3},
            "StopTimeout": 7, "ArgsEscaped": true, "Labels": null, "Volumes": {"/v": {}}, "Entrypoint": null,
            "com.example.vendor": {"deep": [1]}},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "x", "empty_layer": true, "odd": 1}],
        "moby.buildkit.buildinfo.v1": "e30="}"#;

    #[test]
    fn a_round_trip_loses_no_field_of_a_base_image() {
        let config: ImageConfig = serde_json::from_str(DOCKER).unwrap();
        let mut before: serde_json::Value = serde_json::from_str(DOCKER).unwrap();
        let after = serde_json::to_value(&config).unwrap();
        // `null` and absent mean the same to every reader.
        let object = before["config"].as_object_mut().unwrap();
        object.remove("Labels");
        object.remove("Entrypoint");
        assert_eq!(after, before);
    }

    #[test]
    fn env_is_set_in_place() {
        let mut config = ContainerConfig { env: vec!["A=1".into(), "AB=2".into()], ..Default::default() };
        config.set_env("A", "x=y");
        config.set_env("C", "");
        assert_eq!(config.env, ["A=x=y", "AB=2", "C="]);
        assert_eq!(config.env("A"), Some("x=y"));
        assert_eq!(config.env("B"), None);
    }
}
