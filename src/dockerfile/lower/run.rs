//! RUN.

use super::super::diagnostic::{Diagnostic, quote};
use super::super::directives::parse_bool;
use super::super::head::Mapped;
use super::super::instruction::{Device, Network, RunInstruction, Security};
use super::super::mount::{MountFlag, comma_separated};
use super::super::span::Spanned;
use super::super::suggest::nearest;
use super::Lowering;
use super::flags::{FlagKind, FlagSpec, Flags};

const FLAGS: [FlagSpec; 4] = [
    FlagSpec { name: "mount", kind: FlagKind::List },
    FlagSpec { name: "network", kind: FlagKind::Value },
    FlagSpec { name: "security", kind: FlagKind::Value },
    FlagSpec { name: "device", kind: FlagKind::List },
];

const NETWORKS: [(&str, Network); 3] =
    [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];

const SECURITIES: [(&str, Security); 2] = [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];

impl Lowering<'_> {
    pub(super) fn run(&mut self) -> Option<RunInstruction> {
        let flags = Flags::read(self, &FLAGS);
        let mut mounts = Vec::new();
        for value in flags.list("mount") {
            match MountFlag::parse(value, self.line, self.escape) {
                Ok(mount) => mounts.push(mount),
                Err(finding) => self.findings.push(finding),
            }
        }
        let mut devices = Vec::new();
        for value in flags.list("device") {
            match self.device(value) {
                Ok(device) => devices.push(device),
                Err(finding) => self.findings.push(finding),
            }
        }
        let network = self.choice(&flags, "network", &NETWORKS);
        let security = self.choice(&flags, "security", &SECURITIES);
        let command = self.command(self.rest())?;
        Some(RunInstruction { mounts, network, security, devices, command, heredocs: self.heredocs.to_vec() })
    }

    /// The value of a flag that has only a few. They are compared letter by letter, and not expanded.
    fn choice<T: Copy + Default>(&mut self, flags: &Flags, name: &str, choices: &[(&str, T)]) -> Spanned<T> {
        let Some(value) = flags.given(name) else {
            return Spanned::new(T::default(), self.keyword_span());
        };
        let place = value.span(self.line);
        if let Some((_, choice)) = choices.iter().find(|(choice, _)| *choice == value.text) {
            return Spanned::new(*choice, place);
        }
        let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
        let hint = match nearest(&value.text, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("it is one of `{}`; variables are not expanded in it", names.join("`, `")),
        };
        let message = format!("the flag `--{name}` cannot be {}", quote(&value.text));
        self.findings.push(Diagnostic::error(message, place).hint(hint));
        Spanned::new(T::default(), place)
    }

    /// `--device=vendor.com/class=name,required`
    fn device(&self, value: &Mapped) -> Result<Device, Diagnostic> {
        let mut device = Device { name: String::new(), required: false, span: value.span(self.line) };
        for field in comma_separated(value, self.line)? {
            let fault = |message: String| Err(Diagnostic::error(message, field.span(self.line)));
            let (key, text) = match field.text.split_once('=') {
                Some((key, text)) => (key.to_lowercase(), Some(text)),
                None => (field.text.to_lowercase(), None),
            };
            match (key.as_str(), text) {
                ("required", None) => device.required = true,
                ("required", Some(text)) => match parse_bool(text) {
                    Some(required) => device.required = required,
                    None => return fault(format!("`required` of the device cannot be {}", quote(text))),
                },
                ("name", Some(_)) if !device.name.is_empty() => {
                    return fault(format!("the device is already called {}", quote(&device.name)));
                }
                ("name", Some(text)) => device.name = text.to_owned(),
                _ if device.name.is_empty() => device.name = field.text.clone(),
                _ => return fault(format!("{} is not a key of a device", quote(&field.text))),
            }
        }
        Ok(device)
    }
}
