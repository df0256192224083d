/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * points_control: what the control socket answers about recovery points and rollback. Called by status.c.
 *
 *	command		request					answer, besides "ok"
 *	---------------------------------------------------------------------------------------------------
 *	points		"machine" (else all), "after": id	"machines": [{"machine","host","status","log","present","syncing",
 *								 "retention_bytes","rollback","points","more"}]
 *	point		"machine","point","disk","whole"	"machine","host","log","point" (its "path"s: where the targets are now)
 *	point-pin	"machine","point","pinned": bool	"machine","host","point"
 *	point-discard	"machine","point" or "newer_than",	"machine","host","discarded": n,"kept": n,"bytes", and the first of them as
 *			 "dry": bool				 "discarded_points","kept_points": [{"id","text","why"}]
 *	point-verdict	"machine","id","verdict"
 *	rollback	"machine","point","dry"			"machine","host","from","point","newer","estimate" or "rollback"
 *	rollback-status	"machine"				"machine","host","status","present" (the state that the disks are in),"copy_of"
 *								 (after a rollback: of which, or null),"failing" (what fails now:
 *								 {"message","remedy"} or null),"rollback"
 *	points-drop	"machine"				"machine","host"
 *
 * An answer has a bound. A machine whose "points" did not fit has "more": true: ask again for it, "after" the last id.
 * "point" and "newer_than" are selectors (points.h). "point_ms" or "newer_than_ms" beside them is what they mean as a time where
 * the person is: it goes before our own time zone, and after a point of that name.
 * A point has (point_json())
 *
 *	{"id","kind" ("app", "crash", "none": not consistent),"name" (or null),"time","time_ms","epoch","applied_ms","age_ms",
 *	 "size_bytes","present","consistent","complete","why" (or null),"pinned","verified" (object or null),
 *	 "before_rollback","copy_of" (0: none),"disks":[{"id","name","path","size_bytes"}]: as they were}
 */
#ifndef MASTER_TARGET_POINTS_CONTROL_H
#define MASTER_TARGET_POINTS_CONTROL_H

#include <jansson.h>

struct server;

/** points_handle - answer one request; NULL: the command is not one of these */
json_t *points_handle(const char *command, const json_t *request, struct server *server);

#endif
