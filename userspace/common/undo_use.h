/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_use: who reads which state of an undo log, so that it is not taken away from under them. Readers are other processes and may be
 * killed, so it is told by flock(): <log directory>/use/<id, decimal> is locked (shared) by each reader of
 * state <id>, and the lock goes with the process. The file itself means nothing.
 *
 * A reader that is just beginning is told by a lock of the log directory itself, for which a full volume has room:
 *
 *	a reader (undo_view_open())		the master target, before it removes or merges anything
 *	directory locked shared (waits)		undo_use_guard(): directory locked exclusively, or not now
 *	use/<id> made, locked shared		undo_use_oldest(), undo_use_held(): decide
 *	state <id> still there? open layers	remove or rename; undo_use_clean()
 *	directory released			close the guard
 *
 * Layers may be added at any time; what a reader has open it can read to the end. A merge over the state in use takes away the
 * state, one over states behind it does no harm. Work that takes long (writing the merged file) is done without the guard;
 * the rename and the removal with it, after another look.
 */
#ifndef REPROTECT_UNDO_USE_H
#define REPROTECT_UNDO_USE_H

#include <stdbool.h>
#include <stdint.h>

/** undo_use_prepare - make what readers need, while there is room. 0 or negative errno */
int undo_use_prepare(int dir);
/**
 * undo_use_take - say that state @id of the log in directory @dir is read. Waits for the other side (milliseconds)
 * @guard: while this is open nothing is removed; the caller closes it when it has its layers open
 * Return: a file; the state is in use until it is closed everywhere. Or negative errno.
 */
int undo_use_take(int dir, uint64_t id, int *guard);
/**
 * undo_use_guard - no reader begins while what is returned is open
 * Return: a file to close; -EWOULDBLOCK: one is just beginning, try again later; negative errno
 */
int undo_use_guard(int dir);
/** undo_use_held - whether somebody reads state @id. What cannot be found out counts as yes. */
bool undo_use_held(int dir, uint64_t id);
/** undo_use_oldest - whether somebody reads any state; the oldest one in @id (0 where it cannot be found out) */
bool undo_use_oldest(int dir, uint64_t *id);
/** undo_use_clean - remove the files that readers have left. With the guard. */
void undo_use_clean(int dir);

#endif
