//! `--chmod`: octal, or symbolic as BSD's `setmode(3)` reads it, which BuildKit's parser is a translation of.
//!
//! What differs from `chmod(1)`: the umask has no say; `X` asks for the mode before any change; `s` and `t` behind `o`
//! alone mean nothing; `=` without a class keeps the sticky bit.

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;
const EXECUTE: u32 = 0o111;
/// What a class of all means.
const STANDARD: u32 = SET_UID | SET_GID | USER | GROUP | OTHER;
/// The largest octal mode.
const LARGEST: u32 = 0o7777;
/// The mode of directories that are made on the way to a destination.
const PARENT: u32 = 0o755;

/// A new mode, or changes to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chmod {
    /// The mode, whatever it was.
    Octal(u32),
    /// What becomes of the mode that there was.
    Symbolic(Vec<Step>),
}

/// One change of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Clear(u32),
    Set(u32),
    /// `X`: for directories and what was executable at first.
    SetIfExecutable(u32),
    /// The permissions of a class for others: `g=u`, `g+u`, `g-u`.
    Copy {
        /// How far the class's bits are from the right.
        from: u32,
        /// The bits that may change.
        to: u32,
        sets: bool,
        clears: bool,
    },
}

impl Chmod {
    /// Reads the flag's value.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= LARGEST => Ok(Self::Octal(mode)),
                Ok(_) => Err("an octal mode is at most 7777".to_owned()),
                Err(_) => Err("a mode in digits has the digits 0 to 7 alone".to_owned()),
            };
        }
        symbolic(text).map(Self::Symbolic)
    }

    /// What becomes of a mode.
    pub(super) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let steps = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(steps) => steps,
        };
        let mut new = mode;
        for step in steps {
            match *step {
                Step::Clear(bits) => new &= !bits,
                Step::Set(bits) => new |= bits,
                Step::SetIfExecutable(bits) if mode & EXECUTE != 0 || is_directory => new |= bits,
                Step::SetIfExecutable(_) => {}
                Step::Copy { from, to, sets, clears } => {
                    let value = new >> from & OTHER;
                    let spread = |value: u32| (value << 6 | value << 3 | value) & to;
                    if clears {
                        new &= !spread(if sets { OTHER } else { value });
                    }
                    if sets {
                        new |= spread(value);
                    }
                }
            }
        }
        new
    }

    /// The mode of directories that are made on the way to a destination: an octal mode is theirs too, less its bits
    /// above the permissions, which `mkdir` does not take.
    pub(super) fn of_parents(chmod: Option<&Self>) -> u32 {
        match chmod {
            Some(Self::Octal(mode)) => mode & 0o777,
            Some(Self::Symbolic(_)) | None => PARENT,
        }
    }
}

fn symbolic(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for clause in text.split(',') {
        let classes = clause.find(|letter: char| !"augo".contains(letter)).unwrap_or(clause.len());
        let (classes, mut rest) = clause.split_at(classes);
        let mut who = classes.chars().fold(0, |who, class| who | bits_of(class));
        if rest.is_empty() {
            return Err("each clause has one of `+`, `-` and `=`: `u+x`, `go-w`, `a=rX`".to_owned());
        }
        while let Some(op) = rest.chars().next() {
            if !matches!(op, '+' | '-' | '=') {
                return Err(format!("`{op}` stands for no permission and no class"));
            }
            let after = rest.get(1..).unwrap_or_default();
            let end = after.find(['+', '-', '=']).unwrap_or(after.len());
            let (permissions, next) = after.split_at(end);
            operation(op, &mut who, permissions, &mut steps)?;
            rest = next;
        }
    }
    Ok(steps)
}

/// The bits of a class of users.
fn bits_of(class: char) -> u32 {
    match class {
        'a' => STANDARD,
        'u' => SET_UID | USER,
        'g' => SET_GID | GROUP,
        'o' => OTHER,
        _ => 0,
    }
}

/// One operator with what stands behind it.
fn operation(op: char, who: &mut u32, permissions: &str, steps: &mut Vec<Step>) -> Result<(), String> {
    *who &= !STICKY;
    let mut set_done = op != '=';
    let mut bits = 0;
    let mut executable = 0;
    for letter in permissions.chars() {
        // `s` and `t` are not others' to have.
        let for_owners = *who == 0 || *who & !OTHER != 0;
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if op == '-' => bits |= EXECUTE,
            'X' => executable |= EXECUTE,
            's' if for_owners => bits |= SET_UID | SET_GID,
            't' if for_owners => {
                *who |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    simple(op, *who, bits, steps);
                    bits = 0;
                }
                set_done = true;
                if executable != 0 {
                    simple('X', *who, executable, steps);
                    executable = 0;
                }
                let from = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let to = if *who == 0 { USER | GROUP | OTHER } else { classes_of(*who) };
                steps.push(Step::Copy { from, to, sets: op != '-', clears: op != '+' });
            }
            other => return Err(format!("`{other}` stands for no permission and no class")),
        }
    }
    if bits != 0 || !set_done {
        simple(op, *who, bits, steps);
    }
    if executable != 0 {
        simple('X', *who, executable, steps);
    }
    Ok(())
}

/// The permissions of the classes in `who`.
fn classes_of(who: u32) -> u32 {
    [USER, GROUP, OTHER].into_iter().filter(|class| who & class != 0).sum()
}

fn simple(op: char, who: u32, bits: u32, steps: &mut Vec<Step>) {
    let bits = if who == 0 { bits } else { who & bits };
    match op {
        '-' => steps.push(Step::Clear(bits)),
        'X' => steps.push(Step::SetIfExecutable(bits)),
        '+' => steps.push(Step::Set(bits)),
        _ => {
            steps.push(Step::Clear(if who == 0 { STANDARD } else { who }));
            steps.push(Step::Set(bits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// What BuildKit 0.33.0 made of a file 0640, a directory 0750, files 02751 and 04755.
    #[rstest]
    #[case("0", [0, 0, 0, 0])]
    #[case("00644", [0o644, 0o644, 0o644, 0o644])]
    #[case("7777", [0o7777, 0o7777, 0o7777, 0o7777])]
    #[case("000000000755", [0o755, 0o755, 0o755, 0o755])]
    #[case("u+x", [0o740, 0o750, 0o2751, 0o4755])]
    #[case("a=rwX", [0o666, 0o777, 0o777, 0o777])]
    #[case("u=rwX,go=rX", [0o644, 0o755, 0o755, 0o755])]
    #[case("+x", [0o751, 0o751, 0o2751, 0o4755])]
    #[case("-w", [0o440, 0o550, 0o2551, 0o4555])]
    #[case("u=s", [0o4040, 0o4050, 0o6051, 0o4055])]
    #[case("=", [0, 0, 0, 0])]
    #[case("u=g", [0o440, 0o550, 0o2551, 0o4555])]
    #[case("g+s,o+t", [0o2640, 0o2750, 0o2751, 0o6755])]
    #[case("ug+rw,o-", [0o660, 0o770, 0o2771, 0o4775])]
    #[case("+", [0o640, 0o750, 0o2751, 0o4755])]
    #[case("go-u", [0o600, 0o700, 0o2700, 0o4700])]
    #[case("u+rwx,g=u-w", [0o750, 0o750, 0o2751, 0o4755])]
    #[case("o=u", [0o646, 0o757, 0o2757, 0o4757])]
    #[case("a+X", [0o640, 0o751, 0o2751, 0o4755])]
    #[case("-X", [0o640, 0o640, 0o2640, 0o4644])]
    #[case("-rwx", [0, 0, 0o2000, 0o4000])]
    #[case("+t", [0o1640, 0o1750, 0o3751, 0o5755])]
    #[case("u+t", [0o1640, 0o1750, 0o3751, 0o5755])]
    #[case("o+s", [0o640, 0o750, 0o2751, 0o4755])]
    #[case("g=o,o=g", [0o600, 0o700, 0o2711, 0o4755])]
    #[case("u=rwx-x", [0o640, 0o650, 0o2651, 0o655])]
    #[case("a=,u+r", [0o400, 0o400, 0o400, 0o400])]
    #[case("gu=o+x", [0o110, 0o110, 0o2111, 0o4555])]
    fn means_what_buildkit_means(#[case] text: &str, #[case] expected: [u32; 4]) {
        let chmod = Chmod::parse(text).unwrap();
        let modes = [(0o640, false), (0o750, true), (0o2751, false), (0o4755, false)];
        let modes = modes.map(|(mode, is_directory)| chmod.apply(mode, is_directory));
        assert_eq!(modes, expected, "{modes:?} for {expected:?}");
    }

    #[rstest]
    #[case("10000", "at most 7777")]
    #[case("8", "digits 0 to 7")]
    #[case("0x7", "digits 0 to 7")]
    #[case("0o755", "digits 0 to 7")]
    #[case("77777777777777", "digits 0 to 7")]
    #[case("x", "stands for no permission")]
    #[case("u", "each clause has one of")]
    #[case("u=rwx,", "each clause has one of")]
    #[case("u=rwx,,", "each clause has one of")]
    #[case("u+z", "`z` stands for no")]
    #[case("+644", "`6` stands for no")]
    #[case("é+x", "`é` stands for no")]
    #[case("u+xé", "`é` stands for no")]
    fn refuses_what_is_no_mode(#[case] text: &str, #[case] reason: &str) {
        let refused = Chmod::parse(text).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }

    #[rstest]
    #[case(None, 0o755)]
    #[case(Some("600"), 0o600)]
    #[case(Some("4711"), 0o711)]
    #[case(Some("a=r"), 0o755)]
    fn parents_have_octal_modes_alone(#[case] text: Option<&str>, #[case] mode: u32) {
        let chmod = text.map(|text| Chmod::parse(text).unwrap());
        assert_eq!(Chmod::of_parents(chmod.as_ref()), mode);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_nor_leaves_the_mode_bits(text in "[ugoa+=rwxXst,é0-9-]{0,12}", mode in 0u32..0o10000, is_directory: bool) {
            if let Ok(chmod) = Chmod::parse(&text) {
                proptest::prop_assert!(chmod.apply(mode, is_directory) <= LARGEST);
            }
        }
    }
}
