/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * process_start: what a child process does between fork() and its own work.
 */
#ifndef REPROTECT_PROCESS_START_H
#define REPROTECT_PROCESS_START_H

/**
 * process_start - become the leader of a process group, with no signal blocked, reading from /dev/null, writing to @output, and
 * with nothing else open. Ends the process with status 126 where that cannot be
 */
void process_start(int output);

#endif
