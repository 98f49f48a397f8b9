//! Starts programs: maps a program and its ELF interpreter as execve(2) would, and lays the filter before the first.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use super::abi::{ExecRecord, PATH_MAX, PROGRAM_FD, StepBlock};
use super::arch::Jump;
use super::file::Text;
use super::kernel::*;
use super::nr;
use super::resolve;
use super::scratch::Scratch;
use super::shared::{block, table};
use super::state::{self, Task};
use super::trap::{self, Action, StepMask};
use super::{exec, fail, user};

/// The first program of a step: lays the filter, takes the step's identity, executes the program.
pub fn first_program(stack: *mut usize) -> Jump {
    let block = block();
    if block.magic != StepBlock::MAGIC {
        fail(b"the step's description is missing");
    }
    state::begin(Task {
        credentials: block.credentials,
        umask: block.umask,
        chrooted: 0,
        sigsys: Action::DEFAULT,
    });
    lay_filter(block);
    let start = InitialStack::of(stack);
    let error = match start_command(block, &start) {
        Ok(_) => EINVAL,
        Err(error) => error,
    };
    table().start_error.store(error.0.unsigned_abs(), Ordering::Release);
    exit(if error == ENOENT { 127 } else { super::CANNOT_EXECUTE })
}

fn start_command(block: &'static StepBlock, start: &InitialStack) -> Result {
    super::calls::enter_directory(super::mounts::text(block.directory))?;
    let command: CString = user::read::<usize>(start.argv)? as CString;
    let name = user::path_bytes(command)?;
    let mask = StepMask::current();
    if name.contains(&b'/') {
        return exec::execute(AT_FDCWD, command, start.argv, start.envp, 0, mask);
    }
    // As execvp(3): the first that can be executed; "not allowed" is remembered, for it says more than "not there".
    let mut outcome = ENOENT;
    let mut path = [0; PATH_MAX];
    for directory in block.text(block.search_path).split(|&byte| byte == b':') {
        let mut text = Text::new(&mut path);
        let directory = if directory.is_empty() { b"." } else { directory };
        if !(text.push(directory) && text.push(b"/") && text.push(name)) {
            continue;
        }
        match exec::execute(AT_FDCWD, path.as_ptr(), start.argv, start.envp, 0, mask) {
            Err(ENOENT | ENOTDIR) => {}
            Err(EACCES) => outcome = EACCES,
            other => return other,
        }
    }
    Err(outcome)
}

/// Lays the host's filter on the process, and so on all that will descend from it.
fn lay_filter(block: &StepBlock) {
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: usize,
    }
    let program =
        Program { length: block.filter_length as u16, instructions: block.filter.as_ptr() as usize };
    let laid = call(nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0])
        .and_then(|_| call(nr::SECCOMP, [SECCOMP_SET_MODE_FILTER, 0, &raw const program as usize, 0, 0, 0]));
    if laid.is_err() {
        fail(b"cannot lay the seccomp filter");
    }
}

/// Any later program.
pub fn program(stack: *mut usize, record: &ExecRecord) -> Jump {
    state::begin(Task {
        credentials: record.credentials,
        umask: record.umask,
        chrooted: record.chrooted,
        sigsys: Action::DEFAULT,
    });
    keep_name(record);
    trap::install();
    let program = take_program(record.program_fd);
    let mapped = if record.emulator_fd == 0 { program } else { record.emulator_fd };
    let program = match Mapped::map(mapped) {
        Ok(mapped) => mapped,
        Err(_) => fail(b"cannot map the program"),
    };
    let interpreter = match &program.interpreter {
        Some(path) => Some(map_interpreter(path.as_ptr())),
        None => None,
    };
    let start = InitialStack::of(stack);
    start.correct_auxiliary_vector(&program, interpreter.as_ref(), record);
    if program.executable_stack {
        make_executable(stack as usize);
    }
    name_thread(record);
    StepMask::begin(record.mask);
    let entry = interpreter.as_ref().map_or(program.entry, |interpreter| interpreter.entry);
    Jump { entry, stack: stack as usize }
}

/// Moves the program's descriptor to its place. Where the step has lowered its limit on descriptors so far that the
/// place cannot be used, another process sees an older program in `/proc/PID/exe`; nothing else depends on it.
fn take_program(fd: i32) -> i32 {
    match dup3(fd, PROGRAM_FD, 0) {
        Ok(_) => {
            let _ = close(fd);
            PROGRAM_FD
        }
        Err(_) => fd,
    }
}

fn map_interpreter(path: CString) -> Mapped {
    // Not waiting, so that the program's signal mask stays as it is.
    let flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    let mapped = resolve::open_existing(AT_FDCWD, path, flags, StepMask::current())
        .and_then(|fd| Mapped::map(fd.number()));
    match mapped {
        Ok(mapped) => mapped,
        Err(_) => fail(b"cannot map the program's ELF interpreter"),
    }
}

struct Name(UnsafeCell<[u8; 3072]>);

// SAFETY: written once, before the program runs.
unsafe impl Sync for Name {}

/// The path that `AT_EXECFN` points to, for the life of the program.
static NAME: Name = Name(UnsafeCell::new([0; 3072]));

fn keep_name(record: &ExecRecord) {
    // SAFETY: there is one thread, and it is here.
    unsafe { *NAME.0.get() = record.path };
}

fn name_thread(record: &ExecRecord) {
    const PR_SET_NAME: usize = 15;
    let length = record.path.iter().position(|&byte| byte == 0).unwrap_or(0);
    let path = record.path.get(..length).unwrap_or(&[]);
    let base = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let mut name = [0; 16];
    for (slot, byte) in name.iter_mut().zip(path.iter().skip(base).take(15)) {
        *slot = *byte;
    }
    let _ = call(nr::PRCTL, [PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0, 0]);
}

fn make_executable(stack: usize) {
    const PROT_GROWSDOWN: usize = 0x0100_0000;
    let page = stack & !(PAGE - 1);
    let protection = PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN;
    let _ = call(nr::MPROTECT, [page, PAGE, protection, 0, 0, 0]);
}

/// The stack as the kernel lays it out for a new program.
struct InitialStack {
    argv: usize,
    envp: usize,
    auxiliary: usize,
}

impl InitialStack {
    fn of(stack: *mut usize) -> Self {
        let word = |index: usize| {
            // SAFETY: the kernel ends each of the vectors with a null word.
            unsafe { stack.add(index).read() }
        };
        let mut index = word(0) + 2;
        let envp = stack as usize + index * size_of::<usize>();
        while word(index) != 0 {
            index += 1;
        }
        let auxiliary = stack as usize + (index + 1) * size_of::<usize>();
        Self { argv: stack as usize + size_of::<usize>(), envp, auxiliary }
    }

    /// Makes the vector say of the program what the kernel said of the guest.
    fn correct_auxiliary_vector(&self, program: &Mapped, interpreter: Option<&Mapped>, record: &ExecRecord) {
        let mut entry = self.auxiliary as *mut [usize; 2];
        loop {
            // SAFETY: the vector ends with a null entry; it is the process's own memory.
            let pair = unsafe { &mut *entry };
            match pair[0] {
                0 => return,
                3 => pair[1] = program.headers,
                5 => pair[1] = program.header_count,
                7 => pair[1] = interpreter.map_or(0, |interpreter| interpreter.bias),
                9 => pair[1] = program.entry,
                11 => pair[1] = record.credentials.user.real as usize,
                12 => pair[1] = record.credentials.user.effective as usize,
                13 => pair[1] = record.credentials.group.real as usize,
                14 => pair[1] = record.credentials.group.effective as usize,
                23 => pair[1] = record.secure as usize,
                31 => pair[1] = NAME.0.get() as usize,
                _ => {}
            }
            entry = entry.wrapping_add(1);
        }
    }
}

const PAGE: usize = 4096;

/// A mapped ELF file.
struct Mapped {
    entry: usize,
    /// What was added to the addresses in the file.
    bias: usize,
    /// Address of the program headers.
    headers: usize,
    header_count: usize,
    executable_stack: bool,
    interpreter: Option<[u8; 256]>,
}

/// One program header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    address: usize,
    physical: usize,
    in_file: usize,
    in_memory: usize,
    alignment: usize,
}

/// `struct Elf64_Ehdr`
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    identification: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: usize,
    segments: usize,
    sections: usize,
    flags: u32,
    size: u16,
    segment_size: u16,
    segment_count: u16,
    rest: [u16; 3],
}

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const ET_EXEC: u16 = 2;
/// As many headers as a buffer holds; real programs have a dozen.
const MAX_SEGMENTS: usize = 128;

impl Mapped {
    fn map(fd: i32) -> Result<Self> {
        let mut scratch = Scratch::take();
        let buffer = &mut scratch.buffers().path;
        let header = read_header(fd, buffer)?;
        let count = header.segment_count as usize;
        if count > MAX_SEGMENTS || header.segment_size as usize != size_of::<Segment>() {
            return Err(ENOEXEC);
        }
        let table = buffer.get_mut(..count * size_of::<Segment>()).ok_or(ENOEXEC)?;
        if pread(fd, table, header.segments as u64)? != table.len() {
            return Err(ENOEXEC);
        }
        let segment = |index: usize| -> Segment {
            user::read(table.as_ptr() as usize + index * size_of::<Segment>()).unwrap_or(Segment::NONE)
        };
        let bias = reserve(&header, (0..count).map(segment))?;
        let mut mapped = Self {
            entry: bias.wrapping_add(header.entry),
            bias,
            headers: 0,
            header_count: count,
            executable_stack: false,
            interpreter: None,
        };
        for segment in (0..count).map(segment) {
            match segment.kind {
                PT_LOAD => {
                    segment.map(fd, bias)?;
                    let holds_headers = segment.offset <= header.segments
                        && header.segments < segment.offset.saturating_add(segment.in_file);
                    if mapped.headers == 0 && holds_headers {
                        mapped.headers = bias + segment.address + (header.segments - segment.offset);
                    }
                }
                PT_PHDR => mapped.headers = bias.wrapping_add(segment.address),
                PT_INTERP => mapped.interpreter = Some(read_interpreter(fd, &segment)?),
                PT_GNU_STACK => mapped.executable_stack = segment.flags & PF_X != 0,
                _ => {}
            }
        }
        Ok(mapped)
    }
}

fn read_header(fd: i32, buffer: &mut [u8]) -> Result<Header> {
    let bytes = buffer.get_mut(..size_of::<Header>()).ok_or(ENOEXEC)?;
    if pread(fd, bytes, 0)? != bytes.len() {
        return Err(ENOEXEC);
    }
    user::read(bytes.as_ptr() as usize)
}

fn read_interpreter(fd: i32, segment: &Segment) -> Result<[u8; 256]> {
    let mut path = [0; 256];
    let room = path.get_mut(..segment.in_file.min(255)).unwrap_or(&mut []);
    pread(fd, room, segment.offset as u64)?;
    Ok(path)
}

/// Reserves room for all segments and gives the bias: 0 for a program of fixed addresses.
fn reserve(header: &Header, segments: impl Iterator<Item = Segment> + Clone) -> Result<usize> {
    let loads = segments.filter(|segment| segment.kind == PT_LOAD);
    let first = loads.clone().map(|segment| segment.address & !(PAGE - 1)).min().ok_or(ENOEXEC)?;
    let last = loads.clone().map(|segment| segment.address.saturating_add(segment.in_memory)).max().unwrap_or(first);
    let size = page_up(last.saturating_sub(first));
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if header.kind == ET_EXEC {
        mmap(first, size, 0, flags | MAP_FIXED_NOREPLACE, -1, 0)?;
        return Ok(0);
    }
    let alignment = loads.map(|segment| segment.alignment).filter(|a| a.is_power_of_two()).max().unwrap_or(PAGE).max(PAGE);
    let reserved = mmap(0, size + alignment, 0, flags, -1, 0)?;
    let base = (reserved + alignment - 1) & !(alignment - 1);
    if base > reserved {
        munmap(reserved, base - reserved)?;
    }
    let end = base + size;
    if end < reserved + size + alignment {
        munmap(end, reserved + size + alignment - end)?;
    }
    Ok(base.wrapping_sub(first))
}

fn page_up(address: usize) -> usize {
    address.saturating_add(PAGE - 1) & !(PAGE - 1)
}

impl Segment {
    const NONE: Self = Self {
        kind: 0,
        flags: 0,
        offset: 0,
        address: 0,
        physical: 0,
        in_file: 0,
        in_memory: 0,
        alignment: 0,
    };

    fn protection(&self) -> usize {
        const PF_W: u32 = 2;
        const PF_R: u32 = 4;
        let bit = |flag: u32, protection: usize| if self.flags & flag != 0 { protection } else { 0 };
        bit(PF_R, PROT_READ) | bit(PF_W, PROT_WRITE) | bit(PF_X, PROT_EXEC)
    }

    /// Maps the part that is in the file, clears the rest of its last page, maps zeros behind.
    fn map(&self, fd: i32, bias: usize) -> Result<()> {
        let start = bias.wrapping_add(self.address);
        let page = start & !(PAGE - 1);
        let file_end = start + self.in_file;
        let memory_end = start + self.in_memory;
        let mut zeros = page;
        if self.in_file > 0 {
            let offset = (self.offset & !(PAGE - 1)) as u64;
            mmap(page, file_end - page, self.protection(), MAP_PRIVATE | MAP_FIXED, fd, offset)?;
            zeros = page_up(file_end);
            if memory_end > file_end && self.protection() & PROT_WRITE != 0 {
                let length = zeros.min(memory_end.max(zeros)) - file_end;
                // SAFETY: the page was just mapped, private and writable.
                unsafe { core::ptr::write_bytes(file_end as *mut u8, 0, length) };
            }
        }
        if memory_end > zeros {
            let flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS;
            mmap(zeros, memory_end - zeros, self.protection(), flags, -1, 0)?;
        }
        Ok(())
    }
}
