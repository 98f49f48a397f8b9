//! execve(2): checks the program as the kernel would, works out who the process will be, and executes the guest,
//! which finds all that in a slot of the shared memory. A program of another machine is run by an emulator: to the guest
//! that one is the program that is mapped, and to everybody else the process runs what was asked for.

use core::sync::atomic::Ordering;

use super::abi::{
    EMULATOR_FD, EXEC_SLOTS, Emulator, ExecRecord, ExecSlot, FOREIGN_PATH, GUEST_FD, Machine,
};
use super::arch::NATIVE;
use super::file::FdPath;
use super::kernel::*;
use super::mounts;
use super::nr;
use super::resolve::{self, Last};
use super::rules::access::{EXECUTE, permission};
use super::rules::credentials::{FileCapabilities, Program};
use super::rules::mode;
use super::shared::{block, table};
use super::state;
use super::trap::StepMask;
use super::user;

/// What the kernel reads of a program to know its format.
const HEADER: usize = 256;
/// Scripts whose interpreter is a script, and so on: the kernel's limit.
const MAX_SCRIPTS: usize = 5;
/// Arguments for which a script's argument vector is built on the stack.
const SHORT_VECTOR: usize = 48;
const MAX_ARGUMENTS: usize = 1 << 21;

/// `execve` and `execveat`.
pub fn execute(
    directory: i32,
    path: CString,
    argv: usize,
    envp: usize,
    flags: usize,
    step: StepMask,
) -> Result {
    let run = Run { directory, path, envp, step };
    let file = open_program(directory, path, flags)?;
    let mut header = [0; HEADER];
    let length = read_header(&file, &mut header)?;
    if header.starts_with(b"#!") {
        drop(file);
        return run_script(&run, &header, argv);
    }
    start(&run, &file, header.get(..length).unwrap_or(&[]), argv, emulated_path(&run))
}

/// Executes a program that is no script: itself, or the emulator of its machine, which finds it at `path`.
fn start(run: &Run, file: &Executable, header: &[u8], argv: usize, path: CString) -> Result {
    let machine = Machine::of(header).ok_or(ENOEXEC)?;
    if machine == NATIVE {
        check_interpreter(machine, &file.fd, header)?;
        return enter_guest(run, file, argv, 0);
    }
    let known = block().emulators().iter().zip(EMULATOR_FD..).find(|(emulator, _)| emulator.machine == machine);
    let Some((emulator, number)) = known else {
        note_foreign(machine, run);
        return Err(ENOEXEC);
    };
    check_interpreter(machine, &file.fd, header)?;
    emulate(run, file, argv, path, (emulator, number))
}

/// Executes the emulator, with the arguments that tell it what it is to run: `qemu -0 ARGV0 PATH ARGUMENTS`.
#[inline(never)]
fn emulate(
    run: &Run,
    file: &Executable,
    argv: usize,
    path: CString,
    (emulator, number): (&Emulator, i32),
) -> Result {
    let count = count(argv)?;
    let own_name = if count == 0 { path as usize } else { user::read(argv)? };
    let mut vector = Vector::new(count.max(1) + 4)?;
    vector.push(mounts::text(emulator.name) as usize);
    vector.push(c"-0".as_ptr() as usize);
    vector.push(own_name);
    vector.push(path as usize);
    for index in 1..count {
        vector.push(user::read(argv + index * size_of::<usize>())?);
    }
    vector.push(0);
    enter_guest(run, file, vector.address(), number)
}

/// The path by which an emulator opens the program: as given, unless it goes through a descriptor, which may be closed by
/// then, or would be taken for an option. Then it is the link that the guest has lead to the program.
fn emulated_path(run: &Run) -> CString {
    let by_itself = |path: &[u8]| {
        let beside = [&b"-"[..], b"/proc/", b"/dev/fd/"].iter().any(|start| path.starts_with(start));
        !path.is_empty() && !beside
    };
    if run.directory == AT_FDCWD && user::path_bytes(run.path).is_ok_and(by_itself) {
        run.path
    } else {
        c"/proc/self/exe".as_ptr().cast()
    }
}

/// Tells the host of a program that nobody here can run, if it is the first.
fn note_foreign(machine: Machine, run: &Run) {
    let table = table();
    let word = machine.to_word();
    if table.foreign_machine.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    let mut path = [0; FOREIGN_PATH];
    let _ = name_program(run, &mut path);
    for (slot, bytes) in table.foreign_path.iter().zip(path.chunks_exact(4)) {
        let mut word = [0; 4];
        word.copy_from_slice(bytes);
        slot.store(u32::from_le_bytes(word), Ordering::Relaxed);
    }
}

/// What was asked for.
struct Run {
    directory: i32,
    path: CString,
    envp: usize,
    /// The signals that are blocked for the step: its next program inherits them.
    step: StepMask,
}

/// A file that may be executed.
struct Executable {
    fd: Fd,
    program: Program,
}

fn open_program(directory: i32, path: CString, flags: usize) -> Result<Executable> {
    let node = resolve::node_at(directory, path, flags)?;
    let seen = node.seen();
    match node.stat.mode & mode::KIND {
        mode::REGULAR => {}
        mode::SYMLINK => return Err(ELOOP),
        _ => return Err(EACCES),
    }
    permission(state::credentials(), &seen.attributes, EXECUTE)?;
    let capability = seen.entry().and_then(|entry| entry.capability());
    let program = Program {
        uid: seen.attributes.uid,
        gid: seen.attributes.gid,
        mode: seen.attributes.mode & mode::PERMISSIONS,
        capabilities: capability
            .and_then(|(bytes, length)| FileCapabilities::parse(bytes.get(..length).unwrap_or(&[]))),
    };
    let path = FdPath::new(node.fd.number());
    let fd = openat(AT_FDCWD, path.as_ptr(), O_RDONLY | O_CLOEXEC, 0)?;
    Ok(Executable { fd, program })
}

/// Reads the first bytes of a program. The last byte of `header` stays NUL.
fn read_header(file: &Executable, header: &mut [u8; HEADER]) -> Result<usize> {
    pread(file.fd.number(), header.get_mut(..HEADER - 1).unwrap_or(&mut []), 0)
}

/// The interpreter and the argument that a script's first line names, cut out of it in place.
fn script_line(header: &mut [u8; HEADER]) -> Result<(CString, Option<CString>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = header.get_mut(2..).unwrap_or(&mut []);
    let end = line.iter().position(|&byte| matches!(byte, b'\n' | 0)).unwrap_or(0);
    let line = line.get_mut(..=end).unwrap_or(&mut []);
    let mut text = line.get_mut(..end).unwrap_or(&mut []);
    while text.last().is_some_and(blank) {
        text = text.split_last_mut().map_or(&mut [][..], |(_, rest)| rest);
    }
    let end = text.len();
    let start = text.iter().position(|byte| !blank(byte)).ok_or(ENOEXEC)?;
    let base = 2 + start;
    let interpreter_length = text.get(start..).unwrap_or(&[]).iter().position(blank).unwrap_or(end - start);
    let argument = text
        .get(start + interpreter_length..)
        .unwrap_or(&[])
        .iter()
        .position(|byte| !blank(byte))
        .map(|offset| base + interpreter_length + offset);
    for nul in [base + interpreter_length, 2 + end] {
        *header.get_mut(nul).ok_or(ENOEXEC)? = 0;
    }
    let pointer = |offset: usize| header.as_ptr().wrapping_add(offset);
    Ok((pointer(base), argument.map(pointer)))
}

/// Replaces the arguments by those the kernel gives an interpreter: itself, its argument, the script, the rest; and
/// again, where the interpreter is a script.
#[inline(never)]
fn run_script(run: &Run, first: &[u8; HEADER], argv: usize) -> Result {
    let mut lines = [[0; HEADER]; MAX_SCRIPTS];
    if let Some(line) = lines.first_mut() {
        *line = *first;
    }
    // What stands before the step's own arguments, last first.
    let mut prefix = [0_usize; 1 + 2 * MAX_SCRIPTS];
    let mut used = 1;
    let mut descriptor_path = [0; HEADER];
    prefix[0] = script_name(run, &mut descriptor_path)? as usize;
    for level in 0..MAX_SCRIPTS {
        let (interpreter, argument) = script_line(lines.get_mut(level).ok_or(ELOOP)?)?;
        for pointer in argument.into_iter().chain([interpreter]) {
            *prefix.get_mut(used).ok_or(ELOOP)? = pointer as usize;
            used += 1;
        }
        let file = open_program(AT_FDCWD, interpreter, 0)?;
        let mut header = [0; HEADER];
        let length = read_header(&file, &mut header)?;
        if header.starts_with(b"#!") {
            *lines.get_mut(level + 1).ok_or(ELOOP)? = header;
            continue;
        }
        let count = count(argv)?;
        let mut vector = Vector::new(used + count + 1)?;
        for pointer in prefix.get(..used).unwrap_or(&[]).iter().rev() {
            vector.push(*pointer);
        }
        for index in 1..count {
            vector.push(user::read(argv + index * size_of::<usize>())?);
        }
        vector.push(0);
        let header = header.get(..length).unwrap_or(&[]);
        return start(run, &file, header, vector.address(), interpreter);
    }
    Err(ELOOP)
}

/// The path by which an interpreter finds the script: as given, or through the descriptor it is relative to.
fn script_name(run: &Run, buffer: &mut [u8]) -> Result<CString> {
    if run.directory == AT_FDCWD {
        return Ok(run.path);
    }
    name_program(run, buffer)?;
    Ok(buffer.as_ptr())
}

fn count(argv: usize) -> Result<usize> {
    let mut count = 0;
    while argv != 0 && user::read::<usize>(argv + count * size_of::<usize>())? != 0 {
        count += 1;
        if count > MAX_ARGUMENTS {
            return Err(E2BIG);
        }
    }
    Ok(count)
}

/// A vector of pointers: on the stack if it is short, as the stack may be.
struct Vector {
    short: [usize; SHORT_VECTOR],
    /// Address and size of the mapping of a long one; 0 if it is short.
    long: (usize, usize),
    used: usize,
}

impl Vector {
    fn new(entries: usize) -> Result<Self> {
        let mut vector = Self { short: [0; SHORT_VECTOR], long: (0, 0), used: 0 };
        if entries > SHORT_VECTOR {
            let size = entries * size_of::<usize>();
            let address = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
            vector.long = (address, size);
            // A child of vfork takes the mapping to its parent's grave otherwise.
            state::own_mapping(address, size)?;
        }
        Ok(vector)
    }

    fn push(&mut self, value: usize) {
        if self.long.0 == 0 {
            if let Some(slot) = self.short.get_mut(self.used) {
                *slot = value;
            }
        } else {
            let _ = user::write(self.long.0 + self.used * size_of::<usize>(), value);
        }
        self.used += 1;
    }

    fn address(&self) -> usize {
        if self.long.0 == 0 { self.short.as_ptr() as usize } else { self.long.0 }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if self.long.0 != 0 {
            let _ = munmap(self.long.0, self.long.1);
            let _ = state::own_mapping(0, 0);
        }
    }
}

/// Refuses a program whose ELF interpreter is not there: after the guest has been executed nobody is left to tell.
fn check_interpreter(machine: Machine, fd: &Fd, header: &[u8]) -> Result<()> {
    const PT_INTERP: u64 = 3;
    /// Where numbers stand: the table of segments and its length, and of a segment its size, offset and length.
    struct Places {
        table: usize,
        count: usize,
        segment: usize,
        offset: usize,
        length: usize,
    }
    let (word, places) = match machine.class {
        2 => (8, Places { table: 32, count: 56, segment: 56, offset: 8, length: 32 }),
        _ => (4, Places { table: 28, count: 44, segment: 32, offset: 4, length: 16 }),
    };
    let number = |at: usize, size: usize| {
        let bytes = header.get(at..at.checked_add(size)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if machine.order == 1 { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    };
    // Linkers put the interpreter among the first headers; one further back is found missing by the loader.
    let table = number(places.table, word).unwrap_or(0) as usize;
    for index in 0..number(places.count, 2).unwrap_or(0) as usize {
        let at = table.saturating_add(index * places.segment);
        match number(at, 4) {
            None => break,
            Some(PT_INTERP) => {}
            Some(_) => continue,
        }
        let (Some(offset), Some(length)) = (number(at + places.offset, word), number(at + places.length, word)) else {
            break;
        };
        let mut path = [0; HEADER];
        let room = path.get_mut(..(length as usize).min(HEADER - 1)).unwrap_or(&mut []);
        pread(fd.number(), room, offset)?;
        resolve::node(AT_FDCWD, path.as_ptr(), Last::Follow)?;
        break;
    }
    Ok(())
}

/// The point of no return. `emulator` is the descriptor of the one that is to run the program, or 0.
fn enter_guest(run: &Run, file: &Executable, argv: usize, emulator: i32) -> Result {
    let task = state::task();
    let (credentials, secure) = task.credentials.execute(&file.program);
    let slot = Slot::claim()?;
    let record = slot.record();
    // SAFETY: the slot is ours, and large enough (checked where it is defined).
    unsafe {
        (&raw mut (*record).program_fd).write(file.fd.number());
        (&raw mut (*record).emulator_fd).write(emulator);
        (&raw mut (*record).mask).write(run.step.bits());
        (&raw mut (*record).secure).write(u32::from(secure));
        (&raw mut (*record).umask).write(task.umask);
        (&raw mut (*record).chrooted).write(task.chrooted);
        (&raw mut (*record).credentials).write(credentials);
        name_program(run, &mut (*record).path)?;
    }
    resolve::keep_over_exec(&file.fd)?;
    let arguments = [GUEST_FD as usize, EMPTY as usize, argv, run.envp, AT_EMPTY_PATH, 0];
    // The step's signals stay blocked: a handler that ran now would leave what it noted in memory that goes with this
    // program, as an emulator's does. What is pending finds the next one, which is given its mask when it begins.
    let result = call(nr::EXECVEAT, arguments);
    drop(slot);
    result
}

/// What `AT_EXECFN` will say: the path as given, or the descriptor's.
fn name_program(run: &Run, buffer: &mut [u8]) -> Result<()> {
    let bytes = if run.path.is_null() { &[][..] } else { user::path_bytes(run.path)? };
    let mut text = super::file::Text::new(buffer);
    if run.directory != AT_FDCWD && bytes.first() != Some(&b'/') {
        text.push(b"/dev/fd/");
        text.push_number(run.directory.unsigned_abs());
        if !bytes.is_empty() {
            text.push(b"/");
        }
    }
    text.push(bytes);
    Ok(())
}

/// A claimed slot, given back when dropped: when the `execve` has failed.
struct Slot(&'static ExecSlot);

impl Slot {
    fn claim() -> Result<Self> {
        let pid = getpid();
        for attempt in 0..2 {
            for slot in slots(pid) {
                let free = slot.owner.compare_exchange(0, pid, Ordering::Acquire, Ordering::Relaxed);
                if free.is_ok() || free == Err(pid) {
                    return Ok(Self(slot));
                }
            }
            if attempt == 0 {
                free_slots_of_the_dead();
            }
        }
        Err(EAGAIN)
    }

    fn record(&self) -> *mut ExecRecord {
        self.0.record.as_ptr() as *mut ExecRecord
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.owner.store(0, Ordering::Release);
    }
}

/// All slots, beginning where `pid` is looked for.
fn slots(pid: u32) -> impl Iterator<Item = &'static ExecSlot> {
    let start = pid as usize % EXEC_SLOTS;
    let (before, from) = table().exec.split_at(start);
    from.iter().chain(before)
}

/// Frees the slots of processes that were killed in the middle of an `execve`.
fn free_slots_of_the_dead() {
    for slot in &table().exec {
        let owner = slot.owner.load(Ordering::Relaxed);
        if owner != 0 && call(nr::KILL, [owner as usize, 0, 0, 0, 0, 0]) == Err(ESRCH) {
            let _ = slot.owner.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// What the process handed to itself before its last `execve`; `None` for the first program of a step.
pub fn take_record() -> Option<ExecRecord> {
    let pid = getpid();
    let slot = slots(pid).find(|slot| slot.owner.load(Ordering::Acquire) == pid)?;
    let slot = Slot(slot);
    // SAFETY: the process wrote it before it executed the guest.
    Some(unsafe { slot.record().read() })
}
