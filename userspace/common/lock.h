/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock: one instance of a daemon for each directory that it keeps its state in. Called by the
 * process server and the master target at start.
 *
 * A process that is killed may leave writes behind that the block layer has and nobody can take back: they reach the
 * disk when the process is long gone. Whoever reads or writes the same places before that
 * sees old data become new, or new data old. So the lock is tied to the I/O (io_engine_hold()), and the next instance waits.
 */
#ifndef REPROTECT_LOCK_H
#define REPROTECT_LOCK_H

#include <sys/types.h>

/**
 * lock_take - lock the open file @fd; it stays locked until the file is closed everywhere
 * @what: names it in the log
 * @wait_ms: how long to wait for the I/O of a process that has ended
 * @owner: if not NULL: the process that has it, 0 where that is not known
 *
 * Blocks. Returns 0, -EWOULDBLOCK (a running process has it), -ETIMEDOUT (an ended one's I/O is
 * still under way), or another negative errno.
 */
int lock_take(int fd, const char *what, unsigned wait_ms, pid_t *owner);

#endif
