//! `gem.v1.Admin`.

use std::sync::Arc;

use gem_proto::server::admin_server::Admin;
use gem_proto::v1;

use gem_types::{Error, GroupName, TopicName};
use tonic::{Request, Response, Status};

use super::status::status;
use super::{convert, mesh};
use crate::gateway::Gateway;
use crate::gateway::limits;

/// Administers over gRPC.
#[derive(Debug)]
pub struct AdminService(pub Arc<Gateway>);

fn respond<T>(answer: Result<T, Error>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(status)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let v1::CreateTopicRequest { name, config } = request.into_inner();
        let create = async {
            let (state, created) = self.0.create_topic(&TopicName::new(&name)?, convert::config(config)?).await?;
            Ok(v1::CreateTopicResponse { topic: Some(convert::topic(state)), created })
        };
        respond(create.await)
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::GetTopicResponse>, Status> {
        let get = async {
            let state = self.0.show_topic(&TopicName::new(&request.into_inner().name)?).await?;
            Ok(v1::GetTopicResponse { topic: Some(convert::topic(state)) })
        };
        respond(get.await)
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let v1::AlterTopicRequest { name, config } = request.into_inner();
        let alter = async {
            let state = self.0.alter_topic(&TopicName::new(&name)?, convert::change(config)?).await?;
            Ok(v1::AlterTopicResponse { topic: Some(convert::topic(state)) })
        };
        respond(alter.await)
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let delete = async {
            self.0.delete_topic(&TopicName::new(&request.into_inner().name)?).await?;
            Ok(v1::DeleteTopicResponse {})
        };
        respond(delete.await)
    }

    async fn purge_topic(
        &self,
        request: Request<v1::PurgeTopicRequest>,
    ) -> Result<Response<v1::PurgeTopicResponse>, Status> {
        let purge = async {
            self.0.purge_topic(&TopicName::new(&request.into_inner().name)?).await?;
            Ok(v1::PurgeTopicResponse {})
        };
        respond(purge.await)
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let v1::ListTopicsRequest { prefix, limit, cursor } = request.into_inner();
        let list = async {
            let limit = limits::TOPICS.of(Some(u64::from(limit)).filter(|l| *l != 0))?;
            let cursor = Some(cursor.as_str()).filter(|c| !c.is_empty());
            let (states, next) = self.0.list_topics(&prefix, limit as usize, cursor).await?;
            let topics = states.into_iter().map(convert::topic).collect();
            Ok(v1::ListTopicsResponse { topics, cursor: next.unwrap_or_default() })
        };
        respond(list.await)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let list = async {
            let groups = self.0.groups(&TopicName::new(&request.into_inner().topic)?).await?;
            Ok(v1::ListGroupsResponse { groups: groups.into_iter().map(convert::group).collect() })
        };
        respond(list.await)
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::GetGroupResponse>, Status> {
        let v1::GetGroupRequest { topic, group } = request.into_inner();
        let get = async {
            let info = self.0.group(&TopicName::new(&topic)?, &GroupName::new(&group)?).await?;
            Ok(v1::GetGroupResponse { group: Some(convert::group(info)) })
        };
        respond(get.await)
    }

    async fn seek_group(
        &self,
        request: Request<v1::SeekGroupRequest>,
    ) -> Result<Response<v1::SeekGroupResponse>, Status> {
        let v1::SeekGroupRequest { topic, group, to } = request.into_inner();
        let seek = async {
            let missing = || Error::invalid("to is missing: say where the group goes on");
            let to = convert::start(&to)?.ok_or_else(missing)?;
            let info = self.0.seek(&TopicName::new(&topic)?, &GroupName::new(&group)?, to).await?;
            Ok(v1::SeekGroupResponse { group: Some(convert::group(info)) })
        };
        respond(seek.await)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let v1::DeleteGroupRequest { topic, group } = request.into_inner();
        let delete = async {
            self.0.delete_group(&TopicName::new(&topic)?, &GroupName::new(&group)?).await?;
            Ok(v1::DeleteGroupResponse {})
        };
        respond(delete.await)
    }

    async fn get_mesh(&self, _: Request<v1::GetMeshRequest>) -> Result<Response<v1::GetMeshResponse>, Status> {
        respond(self.0.mesh().map(|m| v1::GetMeshResponse { mesh: Some(mesh::mesh(m.status())) }))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Result<Response<v1::ListNodesResponse>, Status> {
        let list = |nodes: Vec<_>| v1::ListNodesResponse { nodes: nodes.into_iter().map(mesh::node).collect() };
        respond(self.0.mesh().map(|m| list(m.nodes())))
    }

    async fn list_shards(&self, _: Request<v1::ListShardsRequest>) -> Result<Response<v1::ListShardsResponse>, Status> {
        let list = |shards: Vec<_>| v1::ListShardsResponse { shards: shards.into_iter().map(mesh::shard).collect() };
        respond(self.0.mesh().map(|m| list(m.shards())))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let v1::DrainNodeRequest { node, cancel } = request.into_inner();
        let drained = self.0.drain_node(&node, cancel).await;
        respond(drained.map(|node| v1::DrainNodeResponse { node: Some(mesh::node(node)) }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let v1::RemoveNodeRequest { node, accept_data_loss } = request.into_inner();
        respond(self.0.remove_node(&node, accept_data_loss).await.map(|()| v1::RemoveNodeResponse {}))
    }
}
