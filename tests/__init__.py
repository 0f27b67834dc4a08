"""Tests of nbconv: one oracle (`reference`), one list of cases (`cases`)."""
