"""The probe: before a version exists, the running engine and PEFT show what they compute with its bytes."""
