/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_layer_internal: what undo_layer.c, undo_chain.c and undo_view.c share.
 */
#ifndef REPROTECT_UNDO_LAYER_INTERNAL_H
#define REPROTECT_UNDO_LAYER_INTERNAL_H

#include "undo_layer.h"

/**
 * undo_layer_open_with - undo_layer_open() with a buffer of UNDO_RECORD_MAX bytes, aligned for O_DIRECT
 * @why: gets a static text. Return: as there, but -ESTALE for a layer of another log.
 */
int undo_layer_open_with(struct undo_layer *layer, int dir, const char *name, const uint8_t *log, void *buffer,
			 const char **why);
/** undo_layer_read_foot - look again whether it is sealed, and how large; @buffer: UNDO_BLOCK, aligned for O_DIRECT */
int undo_layer_read_foot(struct undo_layer *layer, void *buffer);

#endif
