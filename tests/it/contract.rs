//! The contract, sentence by sentence, where no other test holds it. `tests/CONTRACT.md` says which
//! test holds which sentence.

mod callers;
mod inputs;
mod models;
mod outages;
mod results;
mod running;
mod stats;
mod storage;
mod tasks;
