/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run: another program, to its end: with a time limit, and the beginning of what it prints. No shell. Called by the commands
 * that export, mount and verify recovery points.
 *
 * The program leads a process group of its own: a key that interrupts the command reaches the command, which
 * ends the program and undoes what it has begun. When its time is up the group is killed.
 */
#ifndef REPROTECT_CLI_RUN_H
#define REPROTECT_CLI_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RUN_OUTPUT_BYTES 8192u

/**
 * struct run_result - how it ended
 * @exit: its exit status; 128 + the signal that ended it
 * @output: the first 8 KiB of what it printed (stdout and stderr), plain ASCII
 */
struct run_result {
	int exit;
	uint64_t ms;
	char output[RUN_OUTPUT_BYTES + 1];
};

/**
 * run_program - run @argv (searched in PATH, /usr/sbin and /sbin) for @timeout_ms at most
 * @environment: "NAME=VALUE" besides what there is, or NULL
 * Return: 0: it ended by itself, whatever its exit status; -ENOENT: there is no such program; -ETIMEDOUT, -EINTR (the command is
 * interrupted): it was killed; other negative errno.
 */
int run_program(const char *const *argv, const char *environment, uint64_t timeout_ms, struct run_result *result);
/** run_find - where the program is: -ENOENT, or 0 and its path */
int run_find(const char *program, char *path, size_t path_bytes);
/** run_last_line - the last line of @output that is not empty, for a message; in place */
char *run_last_line(char *output);

/** run_catch - from now on SIGINT, SIGTERM and SIGHUP do not end the command: it looks at run_interrupted(), and undoes */
void run_catch(void);
bool run_interrupted(void);
/** run_undo - from now on nothing is interrupted: what follows undoes what was begun */
void run_undo(void);
/** run_pause - a moment until a condition is looked at again: @ms, or until the command is interrupted */
void run_pause(unsigned ms);

#endif
