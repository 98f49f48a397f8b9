//! A small terminal: what is on it after some bytes were written. It breaks lines at its edge, scrolls, and when it is made
//! narrower or wider it breaks its lines anew, as most terminals do.

use unicode_width::UnicodeWidthChar;

/// What the second cell of a wide letter holds.
const REST: char = '\0';

fn letters(cells: &[char]) -> String {
    cells.iter().filter(|letter| **letter != REST).collect()
}

/// A line of the terminal, and whether the next one goes on with it.
#[derive(Debug, Clone, Default)]
struct Line {
    cells: Vec<char>,
    broken: bool,
}

/// A terminal with everything it ever showed.
#[derive(Debug)]
pub struct Emulator {
    columns: usize,
    rows: usize,
    lines: Vec<Line>,
    row: usize,
    column: usize,
}

impl Emulator {
    pub fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, lines: vec![Line::default()], row: 0, column: 0 }
    }

    /// Everything, as lines.
    pub fn text(&self) -> String {
        let lines: Vec<String> =
            self.lines.iter().map(|line| letters(&line.cells).trim_end().to_owned()).collect();
        lines.join("\n").trim_end().to_owned()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).expect("a reporter writes whole letters");
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\n' => self.feed(false),
                '\r' => self.column = 0,
                '\x1b' => {
                    assert_eq!(letters.next(), Some('['), "only control sequences");
                    let mut parameter = String::new();
                    let end = loop {
                        match letters.next().expect("a sequence has an end") {
                            letter @ ('0'..='9' | ';') => parameter.push(letter),
                            end => break end,
                        }
                    };
                    self.control(end, &parameter);
                }
                letter => {
                    assert!(!letter.is_control(), "{letter:?} steers the terminal");
                    self.put(letter);
                }
            }
        }
    }

    fn control(&mut self, end: char, parameter: &str) {
        match end {
            // Up, never beyond the top of the screen.
            'A' => {
                let top = self.lines.len().saturating_sub(self.rows);
                let up: usize = parameter.parse().expect("a number");
                self.row = self.row.saturating_sub(up).max(top);
            }
            'J' => {
                self.lines.truncate(self.row + 1);
                self.lines[self.row].cells.truncate(self.column);
                self.lines[self.row].broken = false;
            }
            'm' => {}
            other => panic!("`{other}` is not used"),
        }
    }

    fn feed(&mut self, broken: bool) {
        self.lines[self.row].broken = broken;
        self.row += 1;
        self.column = 0;
        if self.row == self.lines.len() {
            self.lines.push(Line::default());
        }
    }

    fn put(&mut self, letter: char) {
        let wide = letter.width().unwrap_or(0);
        if wide == 0 {
            return;
        }
        if self.column + wide > self.columns {
            self.feed(true);
        }
        let cells = &mut self.lines[self.row].cells;
        cells.truncate(self.column);
        while cells.len() < self.column {
            cells.push(' ');
        }
        cells.push(letter);
        cells.extend(std::iter::repeat_n(REST, wide - 1));
        self.column += wide;
    }

    /// Another size: lines that were broken are joined, and all are broken anew.
    pub fn resize(&mut self, columns: usize, rows: usize) {
        let mut whole: Vec<Vec<char>> = Vec::new();
        let mut goes_on = false;
        for line in std::mem::take(&mut self.lines) {
            match whole.last_mut().filter(|_| goes_on) {
                Some(last) => last.extend(line.cells),
                None => whole.push(line.cells),
            }
            goes_on = line.broken;
        }
        (self.columns, self.rows) = (columns, rows);
        for line in whole {
            let mut pieces: Vec<Line> =
                line.chunks(columns).map(|cells| Line { cells: cells.to_vec(), broken: true }).collect();
            match pieces.last_mut() {
                Some(last) => last.broken = false,
                None => pieces.push(Line::default()),
            }
            self.lines.append(&mut pieces);
        }
        // The cursor was at the beginning of the last line, where a reporter leaves it.
        self.row = self.lines.len() - 1;
        self.column = 0;
    }
}
