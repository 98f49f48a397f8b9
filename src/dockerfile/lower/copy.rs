//! COPY and ADD.

use std::collections::HashMap;

use super::super::diagnostic::{Diagnostic, quote};
use super::super::expand::Word;
use super::super::heredoc;
use super::super::instruction::{AddInstruction, CopyInstruction, InlineFile, Transfer};
use super::Lowering;
use super::flags::{FlagKind, FlagSpec, Flags};

const COPY_FLAGS: [FlagSpec; 6] = [
    FlagSpec { name: "from", kind: FlagKind::Value },
    FlagSpec { name: "chown", kind: FlagKind::Value },
    FlagSpec { name: "chmod", kind: FlagKind::Value },
    FlagSpec { name: "link", kind: FlagKind::Switch },
    FlagSpec { name: "parents", kind: FlagKind::Switch },
    FlagSpec { name: "exclude", kind: FlagKind::List },
];

const ADD_FLAGS: [FlagSpec; 7] = [
    FlagSpec { name: "chown", kind: FlagKind::Value },
    FlagSpec { name: "chmod", kind: FlagKind::Value },
    FlagSpec { name: "link", kind: FlagKind::Switch },
    FlagSpec { name: "checksum", kind: FlagKind::Value },
    FlagSpec { name: "keep-git-dir", kind: FlagKind::Switch },
    FlagSpec { name: "unpack", kind: FlagKind::Switch },
    FlagSpec { name: "exclude", kind: FlagKind::List },
];

impl Lowering<'_> {
    pub(super) fn copy(&mut self) -> Option<CopyInstruction> {
        let flags = Flags::read(self, &COPY_FLAGS);
        let from = flags.text("from").map(|from| from.spanned(self.line));
        if let Some(from) = &from {
            // Stages depend on each other by what is written, so nothing in it may need expansion.
            if from.value.contains(['$', '\'', '"', self.escape.char()]) {
                let finding =
                    Diagnostic::error("`--from` cannot hold variables, quotes or escapes", from.span)
                        .hint("name the image with `FROM $VARIABLE AS name` and write `--from=name`");
                self.findings.push(finding);
            }
        }
        let parents = flags.switch("parents").is_some_and(|it| it.value);
        Some(CopyInstruction { from, parents, transfer: self.transfer(&flags)? })
    }

    pub(super) fn add(&mut self) -> Option<AddInstruction> {
        let flags = Flags::read(self, &ADD_FLAGS);
        Some(AddInstruction {
            keep_git_dir: flags.switch("keep-git-dir"),
            checksum: flags.word(self, "checksum"),
            unpack: flags.switch("unpack"),
            transfer: self.transfer(&flags)?,
        })
    }

    fn transfer(&mut self, flags: &Flags) -> Option<Transfer> {
        let mut words = self.list()?;
        let Some(destination) = words.pop() else {
            let message = format!("{} has neither source nor destination", self.keyword);
            let finding = self.about_arguments(message);
            self.findings.push(finding);
            return None;
        };
        if words.is_empty() {
            let finding = Diagnostic::error(format!("{} has no destination", self.keyword), destination.span);
            self.findings
                .push(finding.label("the only argument").hint("write sources first, then the destination"));
            return None;
        }
        if is_heredoc(&destination) {
            let finding = Diagnostic::error("a heredoc cannot be a destination", destination.span);
            self.findings.push(finding);
            return None;
        }
        let (paths, inline) = self.sources(words);
        Some(Transfer {
            chown: flags.word(self, "chown"),
            chmod: flags.word(self, "chmod"),
            link: flags.switch("link").is_some_and(|it| it.value),
            exclude: flags.list("exclude").map(|pattern| pattern.spanned(self.line)).collect(),
            paths,
            inline,
            destination,
        })
    }

    /// Parts the sources into paths and heredocs, each with its body.
    fn sources(&mut self, words: Vec<Word>) -> (Vec<Word>, Vec<InlineFile>) {
        let bodies: HashMap<&str, &heredoc::Heredoc> =
            self.heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc)).collect();
        let mut paths = Vec::new();
        let mut inline = Vec::new();
        for word in words {
            match heredoc::opening(&word.text) {
                Ok(Some(opening)) => match bodies.get(opening.name.as_str()) {
                    Some(body) => inline.push(InlineFile::new(body)),
                    None => {
                        let message = format!("the heredoc {} has no body", quote(&word.text));
                        let finding = Diagnostic::error(message, word.span);
                        self.findings.push(finding.hint(
                            "heredocs are read only where the line is not in JSON form and all its quotes are closed",
                        ));
                    }
                },
                Ok(None) if matches!(word.text.as_str(), "<<" | "<<-") && !self.heredocs.is_empty() => {
                    let message = format!("{} needs its delimiter right behind it", quote(&word.text));
                    self.findings.push(Diagnostic::error(message, word.span).hint("remove the blank"));
                }
                Ok(None) | Err(_) => paths.push(word),
            }
        }
        (paths, inline)
    }
}

fn is_heredoc(word: &Word) -> bool {
    heredoc::opening(&word.text).is_ok_and(|opening| opening.is_some())
}
