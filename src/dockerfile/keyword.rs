//! The names of the instructions.

use std::fmt;

macro_rules! keywords {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// An instruction's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Keyword {
            $(#[doc = $doc] $variant,)+
        }

        impl Keyword {
            /// All of them, in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in capital letters.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

keywords! {
    Add "ADD" "Copies from the context, the network or a repository, and unpacks archives.",
    Arg "ARG" "Declares build arguments.",
    Cmd "CMD" "Sets the default command or its arguments.",
    Copy "COPY" "Copies from the context, a stage or an image.",
    Entrypoint "ENTRYPOINT" "Sets the program that a container runs.",
    Env "ENV" "Sets environment variables.",
    Expose "EXPOSE" "Names ports.",
    From "FROM" "Begins a stage.",
    Healthcheck "HEALTHCHECK" "Sets how a container is probed.",
    Label "LABEL" "Sets labels.",
    Maintainer "MAINTAINER" "Names the author; deprecated.",
    Onbuild "ONBUILD" "Keeps an instruction for images built on this one.",
    Run "RUN" "Runs a command.",
    Shell "SHELL" "Sets the shell of the shell forms.",
    Stopsignal "STOPSIGNAL" "Sets the signal that stops a container.",
    User "USER" "Sets the user.",
    Volume "VOLUME" "Names volumes.",
    Workdir "WORKDIR" "Sets and creates the working directory.",
}

impl Keyword {
    /// The keyword written as `text`, in any letter case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|keyword| keyword.name().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
