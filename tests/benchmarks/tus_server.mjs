// @tus/server with @tus/file-store as a peer, as their documentation shows.
// Run as `node tus_server.mjs PORT DIRECTORY` from where both are installed.
import { FileStore } from '@tus/file-store';
import { Server } from '@tus/server';

const [port, directory] = process.argv.slice(2);
const server = new Server({ path: '/files', datastore: new FileStore({ directory }) });
server.listen({ host: '127.0.0.1', port: Number(port) });
