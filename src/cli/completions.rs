//! `cofferdam completions`

use clap::{Args, CommandFactory as _, ValueEnum};

use super::arguments::Arguments;
use super::error::CliError;
use super::stdout;

const AFTER_HELP: &str = "\
Examples:
  source <(cofferdam completions bash)
  cofferdam completions zsh > \"${fpath[1]}/_cofferdam\"
  cofferdam completions fish > ~/.config/fish/completions/cofferdam.fish";

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Writes the script.
pub(super) fn run(arguments: &CompletionsArgs) -> Result<(), CliError> {
    use clap_complete::Shell as Known;
    let shell = match arguments.shell {
        Shell::Bash => Known::Bash,
        Shell::Zsh => Known::Zsh,
        Shell::Fish => Known::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "cofferdam", &mut script);
    stdout::write(&String::from_utf8_lossy(&script))
}
