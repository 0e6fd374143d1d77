//! The config file: as written ([`raw`]), as meant ([`Compiled`]), and what is wrong with it ([`diagnostic`]).
