/** What the templates say, concern by concern. One process, so that each stack is synthesized once. */
import './stack/network.ts';
import './stack/storage.ts';
import './stack/pipeline.ts';
import './stack/service.ts';
import './stack/observability.ts';
import './stack/codes.ts';
import './stack/permissions.ts';
import './stack/local.ts';
import './stack/platform.ts';
